import torch

from pretrain.runs.seeding import derive_seed, generator, seed_global_generators, seeded


def test_a_name_and_a_seed_give_the_same_numbers_again():
    first, again = (torch.rand(4, generator=generator(3, "order", 7)) for _ in range(2))
    assert torch.equal(first, again)


def test_every_seed_and_every_name_gives_other_numbers():
    names = [(s, n, k) for s in range(5) for n in ("order", "noise") for k in range(100)]
    assert len({derive_seed(*name) for name in names}) == len(names)


def test_names_are_kept_apart_from_each_other():
    assert derive_seed(1, "a", "b") != derive_seed(1, "ab")
    assert derive_seed(1, 2) != derive_seed(12)


def test_seeded_leaves_the_global_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1, "initialise"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1, "initialise"):
        assert torch.equal(torch.rand(3), inside)


def test_the_cpu_draws_the_numbers_that_torch_itself_seeds():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.rand(5)
    seed_global_generators(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
