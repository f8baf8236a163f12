"""Each equation against the enumeration of every state, a closed form, or the exact distribution of what is drawn."""

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

from pretrain.network.probabilistic_pooling import pooled_free_energy, pooled_mean, pooled_probability, sample_pooled
from pretrain.rbm.energy import (
    bernoulli_energy,
    bernoulli_free_energy,
    gaussian_energy,
    rectified_free_energy,
    rectified_mean,
)
from pretrain.rbm.unit_sampling import sample_bernoulli, sample_rectified
from pretrain.runs.seeding import generator

FREE_ENERGIES = {f.__name__: f for f in (bernoulli_free_energy, rectified_free_energy, pooled_free_energy)}
DRAWS = {f.__name__: f for f in (sample_bernoulli, sample_rectified, sample_pooled)}


def normal(*shape, scale=1.5):
    return scale * torch.randn(*shape, generator=generator(0, "values"), dtype=torch.float64)


def hidden_states(units, size=None):
    """Enumerate the states of (K, 2, 2) Bernoulli units; with `size`, those with one at most on in each map."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64).view(
        -1, units // 4, 2, 2
    )
    return states[(states.sum(dim=(2, 3)) <= 1).all(dim=1)] if size else states


def exact(x, states):
    """Return the free energy (N,) and the mean of the states, (N, K, 2, 2), given inputs (N, K, 2, 2)."""
    scores = torch.einsum("nkij,skij->ns", x, states)
    return -scores.logsumexp(dim=1), torch.einsum("ns,skij->nkij", scores.softmax(dim=1), states)


def test_bernoulli_units_are_those_of_every_state():
    x = normal(3, 2, 2, 2)
    free_energy, mean = exact(x, hidden_states(8))
    torch.testing.assert_close(bernoulli_free_energy(x), free_energy)
    torch.testing.assert_close(x.sigmoid(), mean)


def test_probabilistic_max_pooling_is_that_of_every_state():
    x = normal(3, 2, 2, 2)
    free_energy, mean = exact(x, hidden_states(8, size=2))
    torch.testing.assert_close(pooled_free_energy(x, 2), free_energy)
    torch.testing.assert_close(pooled_mean(x, 2), mean)
    torch.testing.assert_close(pooled_probability(x, 2)[:, :, 0, 0], mean.sum(dim=(2, 3)))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_blocks_are_the_pooling_windows_and_nothing_else(size):
    x = normal(2, 3, 6, 6)
    on = pooled_mean(x, size)
    for row, column in itertools.product(range(6 // size), repeat=2):
        window = (..., slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size))
        alone = pooled_mean(x[window], size)
        torch.testing.assert_close(on[window], alone)
        torch.testing.assert_close(pooled_probability(x, size)[..., row, column], alone.sum(dim=(2, 3)))


def test_with_blocks_of_one_pooling_is_plain():
    x = normal(2, 3, 4, 4)
    torch.testing.assert_close(pooled_free_energy(x, 1), bernoulli_free_energy(x))
    torch.testing.assert_close(pooled_mean(x, 1), x.sigmoid())


@pytest.mark.parametrize("part", FREE_ENERGIES)
def test_the_gradient_of_the_free_energy_is_minus_the_mean_of_the_hidden_units(part):
    x = normal(2, 3, 4, 4).requires_grad_()
    mean = {
        "bernoulli_free_energy": lambda: x.sigmoid(),
        "rectified_free_energy": lambda: rectified_mean(x.detach()),
        "pooled_free_energy": lambda: pooled_mean(x, 2),
    }[part]()
    arguments = (2,) if part == "pooled_free_energy" else ()
    (gradient,) = torch.autograd.grad(FREE_ENERGIES[part](x, *arguments).sum(), x)
    torch.testing.assert_close(-gradient, mean.detach())


def test_the_free_energy_of_rectified_units_is_scipys_dilogarithm():
    x = torch.linspace(-40, 40, 801, dtype=torch.float64)
    expected = special.spence(1 + x.exp().numpy())  # its argument is 1 minus that of Li2
    np.testing.assert_allclose(rectified_free_energy(x[:, None, None, None]), expected, rtol=1e-13, atol=1e-15)


def test_the_mean_of_rectified_units_is_torchs_softplus():
    x = torch.linspace(-50, 50, 1001)
    torch.testing.assert_close(rectified_mean(x), torch.nn.functional.softplus(x), rtol=1e-6, atol=1e-7)


def test_it_is_nearly_that_of_their_copies():
    # Nair and Hinton's approximation: the sum of the copies' means is close to log(1 + exp x).
    x = torch.linspace(-6, 20, 300, dtype=torch.float64)[:, None, None, None].requires_grad_()
    (gradient,) = torch.autograd.grad(rectified_free_energy(x).sum(), x)
    copies = sum((x.detach() - k - 0.5).sigmoid() for k in range(200))
    assert (-gradient - copies).abs().max() < 0.02


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_extreme_inputs_give_finite_values_and_gradients(magnitude):
    x = torch.full((1, 1, 2, 2), magnitude, requires_grad=True)
    total = pooled_free_energy(x, 2) + bernoulli_free_energy(x) + rectified_free_energy(x)
    (gradient,) = torch.autograd.grad(total.sum(), x)
    assert total.isfinite().all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(pooled_probability(x, 2), torch.full((1, 1, 1, 1), float(magnitude > 0)))
    assert pooled_mean(x, 2).sum() == float(magnitude > 0)


def test_visible_energies_are_those_of_their_densities():
    v, bias, log_variance = normal(2, 3, 4, 4), normal(3), normal(3, scale=0.4)
    density = stats.norm(bias[:, None, None], (0.5 * log_variance).exp()[:, None, None])
    peak = density.logpdf(bias[:, None, None])
    expected = (peak - density.logpdf(v)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(gaussian_energy(v, bias, log_variance), expected)
    bits = (v > 0).double()
    likelihood = stats.bernoulli(bias.sigmoid()[:, None, None]).logpmf(bits).sum(axis=(1, 2, 3))
    normalizer = 16 * torch.nn.functional.softplus(bias).sum()
    np.testing.assert_allclose(-bernoulli_energy(bits, bias), likelihood + normalizer.numpy())


# The tests below draw 200,000 samples; each rejects a right sampler with probability 1e-6.


def test_bernoulli_draws_have_their_mean():
    x = normal(1, 2, 2, 2).expand(200_000, -1, -1, -1)
    ones = sample_bernoulli(x.sigmoid(), generator(1)).sum(dim=0).flatten()
    p = [stats.binomtest(int(k), 200_000, float(q)).pvalue for k, q in zip(ones, x[0].sigmoid().flatten(), strict=True)]
    assert min(p) > 1e-6 / len(p)


def test_units_that_are_certain_are_drawn_so():
    p = torch.tensor([0.0, 1.0]).repeat(1, 1, 50_000, 1)
    assert torch.equal(sample_bernoulli(p, generator(5)), p)


def test_draws_keep_the_memory_format_and_follow_its_order():
    p = normal(3, 5, 4, 7).sigmoid()
    draws = sample_bernoulli(p.contiguous(memory_format=torch.channels_last), generator(4))
    assert draws.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(draws, sample_bernoulli(p.permute(0, 2, 3, 1).contiguous(), generator(4)).permute(0, 3, 1, 2))


def test_pooled_draws_have_the_exact_distribution_of_each_block():
    x = normal(1, 2, 2, 2).expand(200_000, -1, -1, -1)
    draws = sample_pooled(pooled_mean(x, 2), 2, generator(2)).flatten(2)  # (n, 2, 4)
    assert (draws.sum(dim=2) <= 1).all()
    mean = pooled_mean(x[:1], 2).flatten(2)[0]
    for observed, expected in zip(draws.sum(dim=0), mean, strict=True):
        counts = [*observed, 200_000 - observed.sum()]
        shares = [*expected, 1 - expected.sum()]
        assert stats.chisquare(counts, 200_000 * np.array(shares)).pvalue > 1e-6 / 2


def test_rectified_draws_have_the_mean_of_a_rectified_gaussian():
    x = torch.linspace(-1, 3, 7, dtype=torch.float64)[:, None, None, None]
    draws = sample_rectified(x.expand(-1, 1, 400, 500), generator(3)).flatten(1).numpy()
    mean, spread = x.flatten().numpy(), x.sigmoid().sqrt().flatten().numpy()
    expected = mean * stats.norm.cdf(mean / spread) + spread * stats.norm.pdf(mean / spread)
    z = (draws.mean(axis=1) - expected) / (draws.std(axis=1) / np.sqrt(200_000))
    assert np.abs(z).max() < stats.norm.isf(1e-6 / 2 / 7)
    assert (draws >= 0).all()


@pytest.mark.parametrize("draw", DRAWS)
def test_the_generator_decides_and_the_input_is_left_alone(draw):
    x = normal(4, 2, 4, 4).sigmoid() / 4
    before, arguments = x.clone(), (2,) if draw == "sample_pooled" else ()
    first, again, other = (DRAWS[draw](x, *arguments, generator(seed)) for seed in (6, 6, 7))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, before)
