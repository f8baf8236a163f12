import math
from dataclasses import fields
from itertools import combinations, product
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F

from pretrain import ConvAutoencoder, Layer, LayerSettings, UserError
from pretrain.network.layer_settings import ACTIVATIONS
from pretrain.runs.seeding import generator, seeded
from pretrain.stages.corruption import CORRUPTIONS, Corruption
from pretrain.stages.kind_settings import ConvAutoencoderSettings
from pretrain.stages.sparsity import kl_penalty, l1_penalty

SPARSITIES = get_args(get_type_hints(ConvAutoencoderSettings)["sparsity"])
OPTIONS = {
    "activation": [*ACTIVATIONS],
    "corruption": [*CORRUPTIONS],
    "unpooling": ["switches", "none"],
    "sparsity": [*SPARSITIES],
    "tied": [True, False],
}


ALL = [
    values
    for values in product(*OPTIONS.values())
    if values[3] != "kl" or values[0] == "sigmoid"  # a divergence is of activations that are probabilities
]


def pairs(values):
    """Return every two values that two options have together."""
    return {*combinations(enumerate(values), 2)}


def pairwise(rows):
    """Return some of the rows, which have every pair that all of them have: the next is the one that adds the most."""
    chosen, missing = [], set().union(*map(pairs, rows))
    while missing:
        chosen.append(max(rows, key=lambda values: len(pairs(values) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


PAIRWISE = pairwise(ALL)

BOUNDS = torch.zeros(2), torch.ones(2)
LAYER = {field.name for field in fields(LayerSettings)}


def build(in_channels=2, out_channels=3, **options):
    layer = {key: options.pop(key) for key in [*options] if key in LAYER}
    with seeded(0, "test"):
        return ConvAutoencoder(Layer(in_channels, out_channels, **layer), **options).double()


def inputs(*shape):
    return torch.rand(shape or (4, 2, 6, 6), generator=generator(0, "inputs"), dtype=torch.float64)


def noise():
    return generator(0, "noise")


def losses(stage, x):
    return {name: value.detach() for name, value in stage.losses(x, noise()).items()}


def with_filters(stage, weight):
    with torch.no_grad():
        stage.layer.conv.weight.copy_(weight)
    return stage


def only_maxima(h, size):
    kept = torch.zeros_like(h)
    for n, c, top, left in product(*(range(k) for k in h.shape[:2]), *(range(0, k, size) for k in h.shape[2:])):
        window = h[n, c, top : top + size, left : left + size]
        i, j = divmod(window.flatten().tolist().index(window.max().item()), size)
        kept[n, c, top + i, left + j] = window.max()
    return kept


def test_the_sample_of_combinations_has_every_pair_that_the_whole_has():
    assert {*PAIRWISE} < {*ALL}
    assert len(PAIRWISE) < len(ALL) / 10
    for (i, some), (j, others) in combinations(enumerate(OPTIONS.values()), 2):
        for pair in product(some, others):
            assert any((values[i], values[j]) == pair for values in PAIRWISE) == any((v[i], v[j]) == pair for v in ALL)


@pytest.mark.parametrize(
    "values",
    [pytest.param(values, marks=[] if values in PAIRWISE else pytest.mark.slow) for values in ALL],
    ids=lambda values: "-".join(map(str, values)),
)
def test_every_combination_of_options_gives_a_finite_loss_and_gradients(values):
    stage = build(**dict(zip(OPTIONS, values, strict=True)))
    metrics = stage.accumulate_grad(inputs(), noise())
    assert all(math.isfinite(value) for value in metrics.values())
    for name, parameter in stage.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("stride", "padding", "side"), [(1, 1, 6), (1, 0, 6), (2, 0, 7), (2, 1, 7), (3, 2, 8)])
def test_tied_decoding_is_the_adjoint_of_the_convolution(stride, padding, side):
    stage = build(stride=stride, padding=padding, pool_kernel_size=1)
    x = inputs(3, 2, side, side)
    convolved = stage.layer.conv(x)
    h = torch.randn(convolved.shape, generator=noise(), dtype=torch.float64)
    torch.testing.assert_close((convolved * h).sum(), (x * stage.decode(h, None)).sum(), rtol=1e-12, atol=0)


def test_untied_decoding_starts_with_the_encoders_filters_and_then_has_its_own():
    with seeded(0, "test"):
        stage = ConvAutoencoder(Layer(2, 3, pool_kernel_size=1), tied=False)
    h = inputs(4, 3, 6, 6).float()
    expected = stage.decode(h, None)
    torch.testing.assert_close(expected, F.conv_transpose2d(h, stage.layer.conv.weight, padding=1))
    with_filters(stage, torch.zeros(3, 2, 3, 3))
    assert torch.equal(stage.decode(h, None), expected)


def test_only_zero_bias_relu_has_no_bias():
    assert [name for name in ACTIVATIONS if build(activation=name).layer.conv.bias is None] == ["zero_bias_relu"]


def test_identity_filters_of_1x1_reconstruct_exactly():
    stage = with_filters(build(2, 2, kernel_size=1, pool_kernel_size=1), torch.eye(2)[:, :, None, None])
    assert torch.equal(stage.decode(*stage.encode(inputs())), inputs())
    assert losses(stage, inputs())["loss"] == 0


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_with_positive_filters_and_no_pooling_the_reconstruction_is_the_gram_matrix_times_the_input(scale):
    filters = torch.rand(5, 2, generator=generator(0, "filters"), dtype=torch.float64)
    stage = with_filters(build(2, 5, kernel_size=1, pool_kernel_size=1), filters[:, :, None, None])
    stage.layer.scale.fill_(scale)
    expected = torch.einsum("ab,nbij->naij", filters.T @ filters, inputs())
    torch.testing.assert_close(stage.decode(*stage.encode(inputs())), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_with_switches_only_the_maxima_of_the_windows_are_decoded(tied):
    stage = build(unpooling="switches", tied=tied)
    hidden = only_maxima(torch.relu(F.conv2d(inputs(), stage.layer.conv.weight, padding=1)), 2)
    decoded = torch.nn.grad.conv2d_input(inputs().shape, stage.layer.conv.weight, hidden, padding=1)
    measured = losses(stage, inputs())
    torch.testing.assert_close(measured["loss"], (decoded - inputs()).square().mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(measured["active"].item(), (hidden > 0).double().mean().item())
    torch.testing.assert_close(stage.decode(*stage.encode(inputs())), decoded, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [{}, {"pooling": "average"}, {"pool_kernel_size": 4, "pool_stride": 2}])
def test_without_switches_pooling_is_left_out_of_the_loss(options):
    assert losses(build(unpooling="none", **options), inputs()) == losses(build(pool_kernel_size=1), inputs())


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_without_switches_what_a_window_puts_out_is_spread_over_it(pooling):
    stage = with_filters(build(2, 2, kernel_size=1, unpooling="none", pooling=pooling), torch.eye(2)[:, :, None, None])
    x = F.interpolate(inputs(4, 2, 3, 3), scale_factor=2)  # the same all over each window
    torch.testing.assert_close(stage.decode(*stage.encode(x)), x)


@pytest.mark.parametrize("options", [{"pooling": "average"}, {"pool_kernel_size": 4, "pool_stride": 2}])
def test_switches_are_of_the_maxima_of_windows_that_do_not_overlap(options):
    with pytest.raises(UserError, match="give unpooling=none"):
        build(**options)


@pytest.mark.parametrize("sparsity", ["spatial_winner_take_all", "lifetime_winner_take_all"])
def test_only_the_winners_are_decoded(sparsity):
    stage = build(sparsity=sparsity, sparsity_target=0.5)
    hidden = only_maxima(torch.relu(stage.layer.conv(inputs())), 6)
    if sparsity == "lifetime_winner_take_all":
        peaks = hidden.amax(dim=(2, 3))
        hidden = hidden * (peaks.argsort(0, descending=True).argsort(0) < 2)[:, :, None, None]
    decoded = torch.nn.grad.conv2d_input(inputs().shape, stage.layer.conv.weight, hidden, padding=1)
    expected = (decoded - inputs()).square().mean()
    torch.testing.assert_close(losses(stage, inputs())["loss"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sparsity", ["l1", "kl"])
def test_the_penalty_is_its_weight_times_its_equation_on_the_activations(sparsity):
    stage = build(activation="sigmoid", sparsity=sparsity, sparsity_weight=0.7, sparsity_target=0.2)
    hidden = torch.sigmoid(stage.layer.conv(inputs()))
    equation = {"l1": l1_penalty, "kl": lambda h: kl_penalty(h, 0.2)}[sparsity]
    measured = losses(stage, inputs())
    torch.testing.assert_close(measured["loss"] - measured["reconstruction"], 0.7 * equation(hidden).detach())


def test_cross_entropy_is_that_of_pixels_under_the_probabilities_that_decode_gives():
    stage = build(activation="sigmoid", pool_kernel_size=1, reconstruction="cross_entropy")
    x, p = inputs(), stage.decode(*stage.encode(inputs()))
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).mean()
    torch.testing.assert_close(losses(stage, x)["loss"], expected.detach(), rtol=1e-12, atol=0)


def test_the_target_of_a_corrupted_input_is_the_clean_one():
    stage = build(corruption="masking", corruption_level=1.0)
    torch.testing.assert_close(losses(stage, inputs())["loss"], inputs().square().mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind != "none"])
def test_corruption_acts_in_training_mode_alone(kind):
    corruption = Corruption(kind, 0.5)
    assert not torch.equal(corruption(inputs(), noise()), inputs())
    assert torch.equal(corruption.eval()(inputs(), noise()), inputs())
    assert losses(build(corruption=kind).eval(), inputs()) == losses(build(), inputs())


@pytest.mark.parametrize("offset", [-0.5, 0.5])
def test_cross_entropy_refuses_inputs_outside_zero_to_one(offset):
    stage = build(reconstruction="cross_entropy")
    with pytest.raises(UserError, match="needs inputs from 0 to 1"):
        stage.prepare(inputs() + offset, BOUNDS, noise())


def test_inputs_that_the_loss_is_defined_for_are_accepted():
    assert build(reconstruction="cross_entropy").prepare(inputs(), BOUNDS, noise()) is None
    assert build(reconstruction="mse").prepare(inputs() - 9, BOUNDS, noise()) is None


@pytest.mark.parametrize("activation", ["relu", "zero_bias_relu", "scaled_tanh"])
def test_kl_refuses_activations_that_are_no_probabilities(activation):
    with pytest.raises(UserError, match="use activation=sigmoid"):
        build(sparsity="kl", activation=activation)


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("activation", ACTIVATIONS),
        ("corruption", CORRUPTIONS),
        ("unpooling", ("switches", "none")),
        ("sparsity", SPARSITIES),
        ("reconstruction", ("mse", "cross_entropy")),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices_there_are(option, choices):
    with pytest.raises(UserError) as caught:
        build(**{option: "unheard of"})
    assert str(caught.value) == f"{option}=unheard of is not known; choose one of {', '.join(choices)}."


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kernel_size", 0),
        ("stride", 0),
        ("pool_kernel_size", 0),
        ("pool_stride", 0),
        ("padding", -1),
        ("corruption_level", -0.1),
        ("corruption_level", 1.5),
        ("sparsity_target", 0.0),
        ("sparsity_target", 1.0),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(option, value):
    with pytest.raises(UserError, match=f"{option}={value}"):
        build(**{"corruption": "masking", option: value})
