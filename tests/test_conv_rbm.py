"""The machine against the enumeration of all its states, and contrastive divergence against the exact gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from pretrain import ConvRBM
from pretrain.errors import UserError
from pretrain.seeding import generator, seeded

SIDE = 3  # 9 visible units; filters of 2x2 give 4 hidden units a map


def machine(**options):
    """Return a machine with two maps, weights that matter, and biases that are not zero."""
    settings = {"kernel_size": 2, "visible": "bernoulli", "pooling": "max", "sample_last": True, **options}
    with seeded(0, "machine"):
        stage = ConvRBM(1, 2, **settings).double()
        for parameter in stage.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return stage


def states(*shape):
    count = torch.Size(shape).numel()
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)), dtype=torch.float64).view(-1, *shape)


def hidden_states(stage):
    h = states(2, 2, 2)
    return h if stage.pooling == "max" else h[(h.sum(dim=(2, 3)) <= 1).all(dim=1)]


def interaction(stage, v, h):
    """Return the sum over positions of h (W * v + b), (visible states, hidden states), term by term."""
    filters, bias = stage.layer.conv.weight, stage.layer.conv.bias
    total = torch.zeros(len(v), len(h), dtype=torch.float64)
    for k, i, j in itertools.product(range(2), range(2), range(2)):
        seen = (filters[k, 0] * v[:, 0, i : i + 2, j : j + 2]).sum(dim=(1, 2)) + bias[k]
        total += seen[:, None] * h[None, :, k, i, j]
    return total


def images(count, gaussian=False):
    draw = torch.rand(count, 1, SIDE, SIDE, generator=generator(0, "images"), dtype=torch.float64)
    return 4 * draw - 2 if gaussian else (draw < 0.4).double()


@pytest.mark.parametrize("pooling", ["max", "probabilistic"])
@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_the_free_energy_is_minus_the_log_of_the_sum_over_all_hidden_states(visible, pooling):
    stage, v = machine(visible=visible, pooling=pooling), images(5, visible == "gaussian")
    bias = stage.visible_bias
    alone = 0.5 * (v - bias).square() if visible == "gaussian" else -bias * v
    expected = alone.sum(dim=(1, 2, 3)) - interaction(stage, v, hidden_states(stage)).logsumexp(dim=1)
    torch.testing.assert_close(stage.free_energy(v), expected)


@pytest.mark.parametrize("pooling", ["max", "probabilistic"])
def test_the_conditionals_are_those_of_all_states(pooling):
    stage, v = machine(pooling=pooling), states(1, SIDE, SIDE)
    h = hidden_states(stage)
    joint = stage.visible_bias * v.sum(dim=(1, 2, 3))[:, None] + interaction(stage, v, h)
    torch.testing.assert_close(
        stage.hidden_mean(stage.hidden_input(v)), torch.einsum("vh,hkij->vkij", joint.softmax(dim=1), h)
    )
    torch.testing.assert_close(stage.visible_mean(h), torch.einsum("vh,vcij->hcij", joint.softmax(dim=0), v))


def test_gaussian_visible_units_have_the_mean_where_their_energy_is_least():
    stage = machine(visible="gaussian")
    h = hidden_states(stage)[[3, 100, 200]]
    v = stage.visible_mean(h).detach().requires_grad_()
    energy = 0.5 * (v - stage.visible_bias).square().sum() - (h * stage.hidden_input(v)).sum()
    (slope,) = torch.autograd.grad(energy, v)
    torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_the_convolution_and_its_transpose_are_adjoint():
    stage = machine(visible="gaussian")
    v, h = images(4, gaussian=True), states(2, 2, 2)[[7, 77, 177, 250]]
    up = (h * (stage.hidden_input(v) - stage.layer.conv.bias[:, None, None])).sum()
    down = (v * (stage.visible_mean(h) - stage.visible_bias)).sum()
    torch.testing.assert_close(up, down)


def gradients(stage):
    return torch.cat([parameter.grad.flatten() for parameter in stage.parameters()])


@pytest.mark.parametrize("pooling", ["max", "probabilistic"])
def test_long_chains_give_the_exact_gradient_of_the_likelihood(pooling):
    stage = machine(pooling=pooling, gibbs_steps=40)
    data = images(6)
    everything = states(1, SIDE, SIDE)
    (stage.free_energy(data).mean() + (-stage.free_energy(everything)).logsumexp(dim=0)).backward()
    exact = gradients(stage)
    estimates = []
    for k in range(40):
        stage.zero_grad()
        stage.accumulate_grad(data.repeat(500, 1, 1, 1), generator(0, "chain", k))
        estimates.append(gradients(stage))
    estimates = torch.stack(estimates)
    # 40 means of 3,000 chains: |t| beyond 7 has a probability below 1e-6 for all components together.
    t = (estimates.mean(dim=0) - exact) / (estimates.std(dim=0) / 40**0.5)
    assert t.abs().max() < 7
    assert exact.abs().max() > 20 * estimates.std(dim=0).max() / 40**0.5


def test_a_filter_as_large_as_the_image_makes_a_dense_machine():
    stage = machine(kernel_size=SIDE, pool=1)
    v = images(5)
    weights = stage.layer.conv.weight.flatten(1)  # (hidden, visible)
    x = v.flatten(1) @ weights.T + stage.layer.conv.bias
    expected = -(stage.visible_bias * v).sum(dim=(1, 2, 3)) - F.softplus(x).sum(dim=1)
    torch.testing.assert_close(stage.free_energy(v), expected)


def test_the_layer_puts_out_the_probability_that_a_window_is_on():
    stage = machine(pooling="probabilistic")
    mean = stage.hidden_mean(stage.hidden_input(images(3)))
    torch.testing.assert_close(stage.layer(images(3)), mean.sum(dim=(2, 3), keepdim=True))


def test_sparsity_pulls_the_mean_activation_to_its_target():
    stage = machine(sparsity_target=0.1, sparsity_weight=1000.0)
    optimizer = torch.optim.SGD(stage.parameters(), lr=1e-3)
    data = images(50)
    for k in range(400):
        optimizer.zero_grad()
        stage.accumulate_grad(data, generator(0, "step", k))
        optimizer.step()
    activity = stage.hidden_mean(stage.hidden_input(data)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(activity, torch.full_like(activity, 0.1), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visible": "poisson"}, "choose one of gaussian, bernoulli"),
        ({"hidden": "softmax"}, "choose one of bernoulli, rectified"),
        ({"hidden": "rectified", "pooling": "probabilistic"}, "use pooling=max"),
        ({"gibbs_steps": 0}, "gibbs_steps=0: it must be at least 1"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ConvRBM(1, 2, **options)


def test_bernoulli_visible_units_refuse_other_inputs():
    with pytest.raises(UserError, match="visible=bernoulli needs inputs from 0 to 1"):
        machine().prepare(images(4, gaussian=True), generator(0))
