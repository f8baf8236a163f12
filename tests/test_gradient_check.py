import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from torch import nn

from pretrain import ConvAutoencoder, ConvRBM, Layer, Stack, assemble, check_gradients
from pretrain.command_line.command import CONF, plain
from pretrain.evaluation.gradient_check import GradientRow, check_network, check_stage, format_gradients, turned_off
from pretrain.rbm.boltzmann_machine import RBM
from pretrain.runs.seeding import generator, seeded

TOLERANCE = 1e-5


def images(count=4, channels=1):
    return torch.rand(count, channels, 8, 8, generator=generator(0, "images"), dtype=torch.float64)


def labels():
    return torch.tensor([0, 1, 2, 1])


def small_network(activation="zero_bias_relu"):
    with seeded(0, "stack"):
        stages = [
            ConvAutoencoder(Layer(1, 3, activation=activation)),
            ConvAutoencoder(Layer(3, 4, activation=activation)),
        ]
    return assemble(Stack(stages, images()), ["a", "b", "c"], seed=0)


def stage_of(file, **options):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keywords = plain(compose(f"stage/{file.stem}"))["stage"]
    cls = get_class(keywords.pop("_target_"))
    layer = {**keywords.pop("layer"), "out_channels": 3}
    del keywords["training"]
    keywords.pop("views", None)
    known = {name: value for name, value in options.items() if name in keywords}
    with seeded(0, "stage"):
        return cls(Layer(2, **layer), **{**keywords, **known})


def rbm(pooling="max", **options):
    return ConvRBM(Layer(2, 3, activation="sigmoid", pooling=pooling), **options)


def check_likelihood(stage):
    return check_stage(stage, images(channels=2))["exact likelihood of a tiny RBM with its units"]


def check_objective(stage):
    return check_stage(stage, images(channels=2))[type(stage).__name__]


def worst(rows):
    return max(row.relative_error for row in rows)


@pytest.fixture(params=sorted((CONF / "stage").glob("*.yaml")), ids=lambda file: file.stem)
def file(request):
    return request.param


@pytest.mark.parametrize("activation", ["relu", "zero_bias_relu", "triangle", "scaled_tanh", "sigmoid"])
def test_the_networks_gradients_are_right_for_every_parameter(activation):
    network = small_network(activation)
    rows = check_network(network, images(), labels())
    assert {row.parameter for row in rows} == {name for name, _ in network.named_parameters()}
    assert worst(rows) < TOLERANCE


def test_a_stages_gradients_are_right_for_every_parameter(file):
    stage = stage_of(file, corruption="gaussian")
    rows = check_objective(stage)
    if stage.objective is None:
        assert rows == []
        assert "nothing to check" in format_gradients(rows)
        return
    assert {row.parameter for row in rows} == {name for name, _ in stage.named_parameters()}
    assert worst(rows) < TOLERANCE


@pytest.mark.parametrize("pooling", ["max", "probabilistic"])
@pytest.mark.parametrize(
    "units", [{"visible": "bernoulli"}, {"visible": "gaussian"}, {"variance": "learned", "sample_last": True}], ids=str
)
def test_the_exact_likelihoods_gradients_are_right_for_every_parameter(units, pooling):
    stage = rbm(pooling, **units)
    rows = check_likelihood(stage)
    assert {row.parameter for row in rows} == {name for name, _ in stage.named_parameters()}
    assert worst(rows) < TOLERANCE


def test_a_likelihood_gradient_with_a_wrong_sign_is_caught(monkeypatch):
    right = RBM.gradient
    monkeypatch.setattr(
        RBM, "gradient", lambda self, data, *model: right(self, data, *((v, h, -weight) for v, h, weight in model))
    )
    assert worst(check_likelihood(rbm(visible="bernoulli"))) > 0.1


def test_a_stages_corruption_is_turned_off_for_the_check(file):
    noisy, clean = stage_of(file, corruption="gaussian"), stage_of(file, corruption="none")
    assert check_stage(noisy.train(), images(channels=2)) == check_stage(clean, images(channels=2))


@pytest.mark.parametrize(
    "options",
    [
        {"tied": False, "unpooling": "switches"},
        {"activation": "sigmoid", "sparsity": "kl", "reconstruction": "cross_entropy"},
        {"activation": "scaled_tanh", "sparsity": "l1"},
        {"sparsity": "spatial_winner_take_all"},
        {"sparsity": "lifetime_winner_take_all", "sparsity_target": 0.5},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_autoencoders_gradients_are_right_under_its_options(options):
    options = dict(options)
    with seeded(0, "stage"):
        stage = ConvAutoencoder(Layer(2, 3, activation=options.pop("activation", "relu")), **options)
    assert worst(check_objective(stage)) < TOLERANCE


class SquareWithWrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2 * ctx.saved_tensors[0] * 1.01


@pytest.mark.parametrize(("square", "right"), [(torch.square, True), (SquareWithWrongGradient.apply, False)])
def test_a_backward_pass_that_is_one_percent_off_is_caught(square, right):
    module = nn.Linear(3, 2).double()

    def compute():
        module.zero_grad()
        loss = square(module(torch.arange(1.0, 4, dtype=torch.float64))).sum()
        loss.backward()
        return loss.item()

    rows = check_gradients(module, compute, dimensions=8)
    assert len(rows) == 8
    assert worst(rows) < TOLERANCE if right else all(row.relative_error > 5e-3 for row in rows)


def test_the_numerical_gradient_is_the_central_difference_at_the_index_that_the_row_names():
    module = nn.Linear(3, 2, bias=False).double()
    factors = torch.arange(6, dtype=torch.float64).view(2, 3)

    def compute():
        module.zero_grad()
        loss = (module.weight.square() * factors).sum()
        loss.backward()
        return loss.item()

    for row in check_gradients(module, compute, dimensions=6):
        expected = 2 * module.weight[row.index].item() * factors[row.index].item()
        assert row.analytic == pytest.approx(expected, rel=1e-12)
        assert row.numerical == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_the_parameters_are_the_same_after_the_check(file):
    network, stage = small_network(), stage_of(file)
    for module, check in [
        (network, lambda: check_network(network, images(), labels())),
        (stage, lambda: check_stage(stage, images(channels=2))),
    ]:
        before = {name: parameter.detach().double() for name, parameter in module.named_parameters()}
        check()
        assert all(torch.equal(before[name], parameter) for name, parameter in module.named_parameters())


def test_a_network_in_the_memory_format_that_training_leaves_it_in_can_be_checked():
    network = small_network().to(memory_format=torch.channels_last)
    assert worst(check_network(network, images(), labels())) < TOLERANCE


def test_the_relative_error_is_the_difference_over_the_greater_and_plain_where_both_are_tiny():
    assert GradientRow("w", (0,), 1.0, -1.0).relative_error == 2
    assert GradientRow("w", (0,), 2.0, 1.0).relative_error == 0.5
    assert GradientRow("w", (0,), 0.0, 0.0).relative_error == 0
    assert GradientRow("w", (0,), 3e-8, 1e-8).relative_error == pytest.approx(2e-8)


def test_what_is_turned_off_is_named():
    stage = ConvAutoencoder(Layer(1, 2), corruption="masking", corruption_level=0.25)
    names = turned_off([small_network(), stage, ConvAutoencoder(Layer(1, 2))])
    assert names == ["augmentation", "dropout (0.5)", "corruption (masking, 0.25)"]


def test_the_table_has_a_line_for_each_row():
    lines = format_gradients([GradientRow("conv.weight", (1, 0, 2, 2), 0.5, 0.25)]).splitlines()
    assert lines[1].split() == ["conv.weight", "1,0,2,2", "5.000000e-01", "2.500000e-01", "5.0e-01"]


def test_the_command_passes_says_what_is_off_and_leaves_no_file_behind(tmp_path, run_here):
    corrupted = "stack.stages.stage1.corruption=gaussian"
    result = run_here(tmp_path, "gradcheck", "stack=cae_small", "dimensions=2", "images=2", corrupted)
    assert result.returncode == 0, result.stderr
    assert "off, since it would make the estimate meaningless: augmentation, dropout (0.5)" in result.stdout
    assert "corruption (gaussian, 0.2)" in result.stdout
    assert result.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_command_goes_through_the_exact_likelihood_of_rbms(tmp_path, run_here):
    result = run_here(tmp_path, "gradcheck", "stack=crbm_small", "dimensions=2", "images=2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("exact likelihood of a tiny RBM") == 2
