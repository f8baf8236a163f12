"""Operations that are quicker than torch's own give what torch's own give."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_weight

from pretrain.network.dropout import Dropout
from pretrain.network.layer import Layer
from pretrain.network.layer_settings import ACTIVATIONS
from pretrain.network.max_pooling import MaxPool
from pretrain.network.transposed_convolution import conv_transpose
from pretrain.rbm.products import towards_hidden, towards_visible, weight_product
from pretrain.runs.batch_parts import BatchPart
from pretrain.runs.seeding import generator
from pretrain.stages.squared_error import squared_error

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def normal(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator(0, "test", *shape), dtype=dtype)


def with_gradients(function, *leaves):
    """Return the value of a function and its gradients, weighted at random, with respect to the leaves."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad((y * normal(*y.shape).to(y)).sum(), leaves)


def assert_same(first, second, **tolerances):
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerances)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_transposed_convolution_is_torchs_own_with_its_gradients(channels, side, padding, stride):
    leaves = normal(2, 6, side, side), normal(6, channels, 3, 3), normal(channels)
    assert_same(
        with_gradients(lambda h, w, b: conv_transpose(h, w, padding, b, stride), *leaves),
        with_gradients(lambda h, w, b: F.conv_transpose2d(h, w, b, stride, padding), *leaves),
    )


@pytest.mark.parametrize("channels", [3, 8])
def test_under_autocast_the_transposed_convolution_has_the_type_of_products(channels):
    h, weight = normal(2, 6, 6, 6, dtype=torch.float32), normal(6, channels, 3, 3, dtype=torch.float32)
    exact = with_gradients(lambda h, w: conv_transpose(h, w, 1), h, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv_transpose(h, weight, 1).dtype == torch.bfloat16
        rounded = with_gradients(lambda h, w: conv_transpose(h, w, 1).float(), h, weight)
    assert_same(rounded, exact, rtol=0, atol=0.2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 2), (7, 9, 2), (9, 6, 3), (8, 10, 3), (4, 4, 4)])
def test_maxima_are_the_same_whether_a_gradient_is_needed_or_not(height, width, size, dtype, layout):
    x = normal(2, 3, height, width, dtype=dtype).to(memory_format=layout)
    expected = F.max_pool2d(x, size)
    pool = MaxPool(size)
    assert torch.equal(pool(x), expected)
    assert torch.equal(pool(x.requires_grad_()), expected)


def test_a_maximum_that_is_not_a_number_stays_so():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = torch.nan
    assert torch.equal(MaxPool(2)(x).isnan(), F.max_pool2d(x, 2).isnan())


@pytest.mark.parametrize("window", [{}, {"pool_kernel_size": 4, "pool_stride": 2}, {"pool_kernel_size": 3}])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_layer_gives_what_pooling_its_activations_gives(activation, window):
    layer = Layer(3, 5, activation=activation, **window).double()
    x = normal(2, 3, 12, 12)
    assert_same(with_gradients(layer, x), with_gradients(lambda x: layer.pool(layer.hidden(x)), x))


@pytest.mark.parametrize("activation", ["relu", "zero_bias_relu"])
def test_rectifying_what_is_pooled_has_the_bits_of_pooling_what_is_rectified(activation):
    layer = Layer(3, 5, activation=activation).bfloat16()
    x = normal(2, 3, 12, 12, dtype=torch.bfloat16)
    received = layer.conv(x).detach()
    first = with_gradients(lambda z: layer.activation(layer.pool(z)), received)
    second = with_gradients(lambda z: layer.pool(layer.activation(z)), received)
    assert_same(first, second, rtol=0, atol=0)


def test_shift_and_scale_have_the_gradient_of_their_formula():
    layer = Layer(3, 4).double()
    layer.shift.copy_(normal(4))
    layer.scale.copy_(normal(4).exp())
    x = normal(2, 4, 3, 3)
    assert_same(
        with_gradients(layer.normalized, x),
        with_gradients(lambda x: (x - layer.shift[:, None, None]) * layer.scale[:, None, None], x),
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_dropout_keeps_its_share_of_the_units_and_their_mean(share):
    dropout = Dropout(share)
    x = torch.ones(400, 500, dtype=torch.float64).requires_grad_()
    with dropout.drawing(generator(0, "dropout")):
        y = dropout(x)
    kept = (y > 0).double().mean()
    assert abs(kept - (1 - share)) < 5 * (share * (1 - share) / x.numel()) ** 0.5
    torch.testing.assert_close(y[y > 0], torch.full_like(y[y > 0], 1 / (1 - share)), rtol=1e-2 * share, atol=0)
    assert abs(y.mean() - 1) < 5 * (share / (1 - share) / x.numel()) ** 0.5
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)


def test_dropout_draws_what_its_generator_says_and_each_process_its_part():
    x = normal(8, 6)
    dropout = Dropout(0.5)
    with dropout.drawing(generator(0, "dropout")):
        expected = dropout(x)
    for rank in range(2):
        part = BatchPart(rank, 2)
        with dropout.drawing(part.generator(0, "dropout")):
            assert torch.equal(dropout(part.take(x)), part.take(expected))


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (0.5, False)])
def test_without_dropout_nothing_is_drawn(share, training):
    dropout, drawn = Dropout(share).train(training), generator(0, "dropout")
    x = normal(4, 4)
    with dropout.drawing(drawn):
        assert torch.equal(dropout(x), x)
    assert torch.equal(torch.rand(1, generator=drawn), torch.rand(1, generator=generator(0, "dropout")))


def test_outside_of_the_block_torch_draws_by_its_global_generator():
    x, dropout = normal(8, 6), Dropout(0.5)
    with dropout.drawing(generator(0, "dropout")):
        dropout(x)
    torch.manual_seed(0)
    mine = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(mine, F.dropout(x, 0.5))


def test_the_squared_error_is_torchs_own_with_its_gradient():
    x = normal(2, 3, 4, 4)
    reconstruction = x + normal(4, 3, 2, 4).view_as(x)
    assert_same(
        with_gradients(lambda r: squared_error(r, x), reconstruction),
        with_gradients(lambda r: F.mse_loss(r, x), reconstruction),
    )


def test_the_squared_error_of_rounded_reconstructions_is_computed_in_full():
    x = normal(64, 16, 16, 16, dtype=torch.float32)
    reconstruction = normal(64, 16, 16, 16, dtype=torch.bfloat16) / 2
    value, gradient = with_gradients(lambda r: squared_error(r, x), reconstruction)
    exact, exact_gradient = with_gradients(lambda r: F.mse_loss(r.double(), x.double()), reconstruction)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, exact_gradient)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("side", "padding"), [(6, 0), (3, 0), (3, 1), (6, 2)])
def test_the_products_of_an_rbm_are_those_of_its_convolution(side, padding, layout):
    v, weight = (x.to(memory_format=layout) for x in (normal(4, 2, 6, 6), normal(5, 2, side, side)))
    x = F.conv2d(v, weight, padding=padding)
    torch.testing.assert_close(towards_hidden(v, weight, padding), x)
    torch.testing.assert_close(towards_visible(x, weight, padding), F.conv_transpose2d(x, weight, padding=padding))
    expected = conv2d_weight(v, weight.shape, x, padding=padding)
    torch.testing.assert_close(weight_product(v, x, weight.shape, padding), expected)
