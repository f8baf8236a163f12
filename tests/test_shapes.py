import random
import re
import subprocess
import sys
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain import (
    ConvAutoencoder,
    ConvNet,
    Layer,
    LayerSettings,
    Stack,
    Standardize,
    UserError,
    Whiten,
    assemble,
    layer_rows,
    load_stack_settings,
    output_size,
)
from pretrain.network.layer_settings import ACTIVATIONS
from pretrain.network.shapes import PREPROCESSINGS, format_rows
from pretrain.network.whitening import FIT_PREPROCESSING
from pretrain.training.stack_building import build_stack

SETTINGS = [
    setting for setting in product(range(1, 13), range(1, 6), range(1, 5), range(3)) if setting[1] <= setting[0]
]


def fits(width, filter_size, stride, padding):
    """Walk the filter over the padded input: does its last position end at the edge?"""
    starts = range(-padding, width + padding - filter_size + 1, stride)
    return bool(starts) and starts[-1] + filter_size == width + padding


def named_as_fitting(error):
    listed = str(error).split("These would fit: ")[1].rstrip(".")
    pairs = [phrase.split(" ", 1) for phrase in listed.split("; ")]
    return {name: [int(value) for value in values.split(" or ")] for name, values in pairs}


def refused(setting):
    with pytest.raises(UserError, match="do not come out whole") as caught:
        output_size(*setting)
    return caught.value


@pytest.mark.parametrize(
    ("width", "filter_size", "stride", "padding", "expected"),
    [(32, 5, 1, 0, 28), (32, 5, 1, 2, 32), (227, 11, 4, 0, 55), (32, 5, 3, 0, 10), (7, 3, 2, 0, 3), (5, 3, 2, 1, 3)],
)
def test_textbook_sizes(width, filter_size, stride, padding, expected):
    assert output_size(width, filter_size, stride, padding) == expected


def test_output_size_counts_the_positions_that_walking_over_the_input_finds():
    for width, filter_size, stride, padding in SETTINGS:
        if fits(width, filter_size, stride, padding):
            positions = len(range(-padding, width + padding - filter_size + 1, stride))
            assert output_size(width, filter_size, stride, padding) == positions
        else:
            refused((width, filter_size, stride, padding))


def test_six_filters_of_5x5_on_32x32x3_give_28x28x6():
    row, *_ = layer_rows({"layer": LayerSettings(3, 6, kernel_size=5, padding=0)}, (3, 32, 32))
    assert row.shape == (6, 28, 28)
    assert row.multiply_adds == 28 * 28 * 6 * 5 * 5 * 3


def test_ten_filters_of_5x5_with_padding_2_on_32x32x3_give_32x32x10_and_760_parameters():
    row, *_ = layer_rows({"layer": LayerSettings(3, 10, kernel_size=5, padding=2)}, (3, 32, 32))
    assert row.shape == (10, 32, 32)
    assert row.parameters == 760


def test_a_filter_of_3_with_stride_2_does_not_fit_a_width_of_10_and_the_error_says_why():
    message = str(refused((10, 3, 2, 0)))
    assert re.search(r"10 wide, filter 3, stride 2, no padding: the positions do not come out whole", message)
    assert "(10 - 3 + 0) / 2 + 1 = 4.5" in message


def test_every_value_that_the_error_names_fits_and_none_nearer_does():
    order = ("width", "filter", "stride", "padding")
    for setting in SETTINGS:
        if fits(*setting):
            continue
        width, filter_size, _, _ = setting
        sensible = {"width": range(filter_size, 30), "filter": range(1, width + 1), "stride": range(1, 30)}
        for name, values in named_as_fitting(refused(setting)).items():
            place = order.index(name)
            changed = [
                value
                for value in sensible.get(name, range(filter_size))
                if fits(*setting[:place], value, *setting[place + 1 :])
            ]
            distance = min(abs(value - setting[place]) for value in changed)
            assert values == [value for value in changed if abs(value - setting[place]) == distance], setting


def test_a_filter_wider_than_the_padded_input_is_refused():
    with pytest.raises(UserError, match=r"filter is wider than the padded input \(6 wide\)"):
        output_size(4, 7, 1, 1)


def test_the_error_names_the_layer_that_does_not_fit():
    stages = [ConvAutoencoder(Layer(1, 2)), ConvAutoencoder(Layer(2, 2))]
    with pytest.raises(UserError, match=r"stage 2.*3 wide, filter 2, stride 2"):
        Stack(stages, torch.zeros(1, 1, 6, 6))


def random_layers(seed):
    draw = random.Random(seed)
    channels = draw.randint(1, 3)
    shape = (channels, draw.choice([8, 12, 16]), draw.choice([8, 12, 16]))
    layers, sides = [], shape[1:]
    for _ in range(draw.randint(1, 3)):
        padding, activation = draw.randint(0, 2), draw.choice(ACTIVATIONS)
        kernel = draw.choice([k for k in (1, 3, 5) if k <= min(sides) + 2 * padding])
        stride = draw.choice([s for s in (1, 2, 3) if all(fits(side, kernel, s, padding) for side in sides)])
        sides = tuple(output_size(side, kernel, stride, padding) for side in sides)
        pool = draw.choice([size for size in (1, 2) if all(side % size == 0 for side in sides)])
        sides = tuple(side // pool for side in sides)
        filters = draw.randint(1, 5)
        window = draw.choice([size for size in (pool, pool + 2) if all(size <= side for side in sides)] or [pool])
        pooling = draw.choice(("max", "average", *["probabilistic"] * ((activation, window) == ("sigmoid", pool))))
        options = {"stride": stride, "padding": padding, "activation": activation, "pooling": pooling}
        options |= {"pool_kernel_size": window, "pool_stride": pool}
        layers.append(Layer(channels, filters, kernel_size=kernel, **options))
        channels = filters
    return layers, shape


def random_network(seed):
    layers, shape = random_layers(seed)
    kind = (Standardize, Whiten)[seed % 2]
    preprocessing = kind.from_images(torch.rand(4, *shape, generator=torch.Generator().manual_seed(seed)))
    return ConvNet(preprocessing, layers, shape, range(7)), shape


@pytest.mark.parametrize("seed", range(16))
def test_the_volumes_and_the_names_are_those_of_a_forward_pass(seed):
    network, shape = random_network(seed)
    seen = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, output, name=name: seen.append((name, tuple(output.shape[1:]))))
    x = network.preprocessing(torch.zeros(2, *shape))
    for layer in network.layers:
        # A layer may pool before it activates, with the same output.
        x = layer.pool(layer.activation(layer.conv(x)))
    network.head(x)
    assert [(row.name, row.shape) for row in network.rows] == seen


@pytest.mark.parametrize("seed", range(16))
def test_what_a_row_says_is_what_the_module_is(seed):
    network, _ = random_network(seed)
    for row in network.rows:
        module = network.get_submodule(row.name)
        name = type(module).__name__.lower()
        words = {"conv2d": "conv", "maxpool": "max-pool", "avgpool2d": "mean-pool", "linear": "fully"}
        words["probabilisticmaxpool"] = "probabilistic"
        assert row.kind.split()[0].rstrip(",") == words.get(name, name)


def test_the_same_settings_one_above_the_other_are_described_twice():
    settings = LayerSettings(2, 2)
    rows = layer_rows({"lower": settings, "upper": settings}, (2, 8, 8))
    assert [row.shape for row in rows if row.name.endswith("pool")] == [(2, 4, 4), (2, 2, 2)]


@pytest.mark.parametrize("seed", range(16))
def test_parameters_and_multiply_adds_are_those_that_torch_counts(seed):
    network, shape = random_network(seed)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    assert 2 * sum(row.multiply_adds for row in network.rows) == counter.get_total_flops()
    assert sum(row.parameters for row in network.rows) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (LayerSettings(2, 2), "below.conv: it takes 2 channels, but 1 come from below"),
        (LayerSettings(1, 2, kernel_size=20, padding=0), "below.conv: .* wider than the padded input"),
        (LayerSettings(1, 2, pool_kernel_size=3), "below.pool: .* the positions do not come out whole"),
    ],
    ids=["channels", "filter", "pool"],
)
def test_a_layer_that_does_not_fit_is_named(settings, says):
    with pytest.raises(UserError, match=says):
        layer_rows({"below": settings}, (1, 8, 8))


def test_an_unknown_preprocessing_is_refused():
    with pytest.raises(UserError, match=r"stack\.preprocessing=bleach is not known; choose one of standardize, whiten"):
        layer_rows({}, (3, 8, 8), preprocessing="bleach")


def test_the_preprocessings_are_those_that_can_be_fitted():
    assert (*FIT_PREPROCESSING,) == PREPROCESSINGS


@pytest.mark.parametrize("stack", ["cae", "crbm", "soft_hebb", "kmeans_contrastive", "mixed"])
def test_the_table_of_a_configuration_is_that_of_the_network_it_becomes(stack):
    settings = load_stack_settings(stack)
    built = build_stack(settings, torch.zeros(1, 3, 32, 32), seed=0).stack
    assert settings.layer_rows((3, 32, 32), 10) == assemble(built, range(10), seed=0).rows


def test_the_printed_table_ends_with_the_totals():
    layer = LayerSettings(3, 10, kernel_size=5, pool_kernel_size=1)
    rows = layer_rows({"layer": layer}, (3, 32, 32), classes=2)
    table = format_rows(rows, (3, 32, 32)).splitlines()
    assert "32x32x10" in table[3]
    assert table[-1].split() == ["total", f"{760 + 20482:,}", f"{32 * 32 * 750 + 20480:,}"]


def test_the_layer_table_needs_no_torch():
    code = (
        "import sys, pretrain\n"
        "pretrain.load_stack_settings('cae').layer_rows((3, 32, 32), 10)\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'torchvision'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
