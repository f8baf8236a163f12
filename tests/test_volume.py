import random
import re
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain import ConvAutoencoder, Layer, Stack, UserError, layer_rows, output_size
from pretrain.network.shapes import format_rows

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
    (row,) = layer_rows(nn.Sequential(nn.Conv2d(3, 6, 5)), (3, 32, 32))
    assert row.shape == (6, 28, 28)
    assert row.multiply_adds == 28 * 28 * 6 * 5 * 5 * 3


def test_ten_filters_of_5x5_with_padding_2_on_32x32x3_give_32x32x10_and_760_parameters():
    (row,) = layer_rows(nn.Sequential(nn.Conv2d(3, 10, 5, padding=2)), (3, 32, 32))
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
    stages = [ConvAutoencoder(1, 2), ConvAutoencoder(2, 2)]
    with pytest.raises(UserError, match=r"stage 2.*3 wide, filter 2, stride 2"):
        Stack(stages, torch.zeros(1, 1, 6, 6))


def random_network(seed):
    draw = random.Random(seed)
    channels = draw.randint(1, 3)
    shape = (channels, draw.choice([8, 12, 16]), draw.choice([8, 12, 16]))
    modules, sides = [], shape[1:]
    for _ in range(draw.randint(1, 3)):
        padding, activation = draw.randint(0, 2), draw.choice(["relu", "scaled_tanh"])
        kernel = draw.choice([k for k in (1, 3, 5) if k <= min(sides) + 2 * padding])
        stride = draw.choice([s for s in (1, 2, 3) if all(fits(side, kernel, s, padding) for side in sides)])
        sides = tuple(output_size(side, kernel, stride, padding) for side in sides)
        pool = draw.choice([size for size in (1, 2) if all(side % size == 0 for side in sides)])
        sides = tuple(side // pool for side in sides)
        filters = draw.randint(1, 5)
        window = draw.choice([size for size in (pool, pool + 2) if all(size <= side for side in sides)] or [pool])
        options = {"stride": stride, "padding": padding, "activation": activation, "pool": pool, "window": window}
        modules.append(Layer(channels, filters, kernel_size=kernel, **options))
        channels = filters
    modules += [nn.Flatten(), nn.Dropout(), nn.Linear(channels * sides[0] * sides[1], 7)]
    return nn.Sequential(*modules), shape


@pytest.mark.parametrize("seed", range(8))
def test_the_volumes_are_those_of_a_forward_pass(seed):
    network, shape = random_network(seed)
    seen = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    network(torch.zeros(2, *shape))
    assert [row.shape for row in layer_rows(network, shape)] == seen


def test_a_module_that_is_used_twice_is_described_twice():
    pool = nn.MaxPool2d(2)
    assert [row.shape for row in layer_rows(nn.Sequential(pool, nn.ReLU(), pool), (1, 8, 8))] == [
        (1, 4, 4),
        (1, 4, 4),
        (1, 2, 2),
    ]


@pytest.mark.parametrize("seed", range(8))
def test_parameters_and_multiply_adds_are_those_that_torch_counts(seed):
    network, shape = random_network(seed)
    rows = layer_rows(network, shape)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    assert 2 * sum(row.multiply_adds for row in rows) == counter.get_total_flops()
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Conv2d(1, 2, (3, 5)), "not square"),
        (nn.Conv2d(1, 2, 3, padding="same"), "not a number of pixels"),
        (nn.Conv2d(1, 2, 3, dilation=2), "dilation"),
    ],
    ids=["not square", "padding by name", "dilation"],
)
def test_what_the_arithmetic_does_not_cover_is_refused(module, says):
    with pytest.raises(UserError, match=says):
        layer_rows(nn.Sequential(module), (1, 8, 8))


def test_the_printed_table_ends_with_the_totals():
    network = nn.Sequential(nn.Conv2d(3, 10, 5, padding=2), nn.Flatten(), nn.Linear(10240, 2))
    table = format_rows(layer_rows(network, (3, 32, 32)), (3, 32, 32)).splitlines()
    assert "32x32x10" in table[3]
    assert table[-1].split() == ["total", f"{760 + 20482:,}", f"{32 * 32 * 750 + 20480:,}"]
