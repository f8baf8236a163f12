"""The RBM against the enumeration of all its states, a quadrature, and torch's own derivatives."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from pretrain import UserError
from pretrain.rbm.boltzmann_machine import RBM
from pretrain.rbm.centering import centered_gradient
from pretrain.rbm.exact_enumeration import hidden_states, log_partition, visible_states
from pretrain.rbm.gibbs_chains import ContrastiveDivergence, PersistentChains, correlation, log_exchange
from pretrain.rbm.likelihood import annealed_log_partition, pseudo_likelihood
from pretrain.rbm.visible_units import BinaryUnits, GaussianUnits
from pretrain.runs.seeding import generator

SHAPE = (1, 3, 3)  # with filters of 2x2, 4 hidden units a map
NOTHING = torch.empty(0)  # what persistent chains make of a batch
KINDS = ["bernoulli", "centered", "gaussian"]


def normal(*shape, scale=0.7, name="parameters"):
    return scale * torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def units(kind, channels=1):
    bias = normal(channels, name="bias")
    if kind == "gaussian":
        return GaussianUnits(bias, normal(channels, scale=0.3, name="variance"))
    low, high = (0.0, 1.0) if kind == "bernoulli" else (-0.3, 1.6)
    ends = (torch.full((channels,), value, dtype=torch.float64) for value in (low, high))
    return BinaryUnits(bias, *ends)


def make_rbm(kind="bernoulli", *, block=1, maps=2, channels=1, size=2, **options):
    """Return an RBM with weights that matter, and biases that are not zero."""
    return RBM(
        normal(maps, channels, size, size), normal(maps, name="hidden"), units(kind, channels), block=block, **options
    )


def values(rbm, count, shape=SHAPE):
    """Return visible units: any numbers of Gaussian ones, low and high of binary ones."""
    draw = torch.rand(count, *shape, generator=generator(0, "values"), dtype=torch.float64)
    if isinstance(rbm.visible, GaussianUnits):
        return 4 * draw - 2
    return rbm.visible.low[:, None, None] + rbm.visible.gain[:, None, None] * (draw < 0.4)


def interaction(rbm, v, h):
    """Return the sum over positions of h (W * v + b), (visible states, hidden states), term by term."""
    total = torch.zeros(len(v), len(h), dtype=torch.float64)
    for k, i, j in itertools.product(range(2), repeat=3):
        seen = (rbm.weight[k, 0] * v[:, 0, i : i + 2, j : j + 2]).sum(dim=(1, 2)) + rbm.hidden_bias[k]
        total += seen[:, None] * h[None, :, k, i, j]
    return total


def visible_energy(rbm, v):
    """Return the energy of the visible units alone, from the definition."""
    if isinstance(rbm.visible, GaussianUnits):
        return ((v - rbm.visible.bias).square() / (2 * rbm.visible.log_variance.exp())).sum(dim=(1, 2, 3))
    on = (v - rbm.visible.low) / (rbm.visible.high - rbm.visible.low)
    return -(rbm.visible.bias * on).sum(dim=(1, 2, 3))


def test_hidden_states_are_all_there_are():
    assert len(hidden_states(make_rbm(), SHAPE)) == 2**8
    assert len(hidden_states(make_rbm(block=2), SHAPE)) == 5**2
    with pytest.raises(UserError, match="18 bernoulli hidden units: at most 16"):
        hidden_states(make_rbm(), (1, 4, 4))


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_free_energy_is_minus_the_log_of_the_sum_over_all_hidden_states(kind, block):
    rbm = make_rbm(kind, block=block)
    v = values(rbm, 5)
    expected = visible_energy(rbm, v) - interaction(rbm, v, hidden_states(rbm, SHAPE)).logsumexp(dim=1)
    torch.testing.assert_close(rbm.free_energy(v), expected)


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("kind", ["bernoulli", "centered"])
def test_the_conditionals_and_log_z_are_those_of_all_states(kind, block):
    rbm = make_rbm(kind, block=block)
    (v, p), h = visible_states(rbm, SHAPE), hidden_states(rbm, SHAPE)
    joint = interaction(rbm, v, h) - visible_energy(rbm, v)[:, None]
    hidden_mean = torch.einsum("vh,hkij->vkij", joint.softmax(dim=1), h)
    torch.testing.assert_close(rbm.hidden_mean(rbm.hidden_input(v)), hidden_mean)
    torch.testing.assert_close(rbm.visible_mean(h), torch.einsum("vh,vcij->hcij", joint.softmax(dim=0), v))
    torch.testing.assert_close(log_partition(rbm, SHAPE), joint.flatten().logsumexp(dim=0))
    torch.testing.assert_close(p, joint.logsumexp(dim=1).softmax(dim=0))


def test_gaussian_units_have_the_mean_variance_and_normalizer_of_their_density():
    rbm = make_rbm("gaussian")
    field = torch.tensor([[[[0.8]]]], dtype=torch.float64)
    grid = torch.linspace(-15, 15, 20_001, dtype=torch.float64)[:, None, None, None]
    density = (grid * 0.8).flatten() - rbm.visible.energy(grid)
    step = float(grid[1] - grid[0])
    p = density.softmax(dim=0)
    mean = (p * grid.flatten()).sum()
    torch.testing.assert_close(rbm.visible.mean(field).squeeze(), mean)
    torch.testing.assert_close(rbm.visible.gain.squeeze(), (p * (grid.flatten() - mean).square()).sum())
    torch.testing.assert_close(rbm.visible.log_normalizer(field).squeeze(), density.logsumexp(dim=0) + np.log(step))


def test_the_quadrature_gives_the_moments_of_the_mixture_of_gaussians():
    rbm, shape = make_rbm("gaussian"), (1, 2, 2)
    v, p = visible_states(rbm, shape)
    h = hidden_states(rbm, shape)
    log_weights = (h * rbm.hidden_bias[:, None, None]).sum(dim=(1, 2, 3)) + rbm.visible.log_normalizer(rbm.field(h))
    expected = torch.einsum("h,hcij->cij", log_weights.softmax(dim=0), rbm.visible_mean(h))
    torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(torch.einsum("v,vcij->cij", p, v), expected)


@pytest.mark.parametrize("padding", [0, 1])
def test_the_convolution_and_its_transpose_are_adjoint(padding):
    rbm = make_rbm("gaussian", channels=3, padding=padding)
    v = normal(4, 3, 5, 5)
    x = rbm.hidden_input(v)
    h = normal(*x.shape, name="h")
    up = (h * (x - rbm.hidden_bias[:, None, None])).sum()
    torch.testing.assert_close(up, (v * rbm.field(h)).sum())


def test_a_filter_as_large_as_the_image_makes_a_dense_machine():
    rbm = make_rbm(channels=3, maps=7, size=4)
    v = values(rbm, 5, (3, 4, 4))
    weights = rbm.weight.flatten(1)  # (hidden, visible)
    h = normal(5, 7, 1, 1, name="h")
    torch.testing.assert_close(rbm.hidden_input(v).flatten(1), v.flatten(1) @ weights.T + rbm.hidden_bias)
    torch.testing.assert_close(rbm.field(h).flatten(1), h.flatten(1) @ weights)


@pytest.mark.parametrize("hidden", ["bernoulli", "rectified"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [0, 1])
def test_the_gradient_is_torchs_own_of_the_free_energy(kind, hidden, padding):
    rbm = make_rbm(kind, channels=2, maps=3, hidden=hidden, padding=padding)
    v, weights = values(rbm, 4, (2, 5, 5)), torch.tensor([0.5, 0.5, -0.2, -0.8], dtype=torch.float64)
    names = {"weight": rbm.weight, "hidden_bias": rbm.hidden_bias, "visible_bias": rbm.visible.bias}
    if kind == "gaussian":
        names["log_variance"] = rbm.visible.log_variance
    for parameter in names.values():
        parameter.requires_grad_()
    expected = torch.autograd.grad((weights * rbm.free_energy(v)).sum(), list(names.values()))
    with torch.no_grad():
        gradient = rbm.gradient((v, rbm.hidden_mean(rbm.hidden_input(v)), weights))
    assert gradient.keys() == names.keys()
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(gradient[name], value, msg=name)


def exact_gradient(rbm, data, shape):
    """Return the derivative of minus the mean log-likelihood, by torch through the enumerated log Z."""
    parameters = [rbm.weight, rbm.hidden_bias, rbm.visible.bias]
    for parameter in parameters:
        parameter.requires_grad_()
    objective = rbm.free_energy(data).mean() + log_partition(rbm, shape)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters)])
    for parameter in parameters:
        parameter.requires_grad_(False)
    return gradient


def flat(gradient):
    return torch.cat([gradient[name].flatten() for name in ("weight", "hidden_bias", "visible_bias")])


@pytest.mark.parametrize("kind", KINDS)
def test_expectations_over_the_enumerated_model_make_the_exact_gradient(kind):
    rbm, shape = make_rbm(kind), (1, 2, 2)
    data = values(rbm, 6, shape)
    exact = exact_gradient(rbm, data, shape)
    v, p = visible_states(rbm, shape)
    both = torch.cat([data, v])
    weights = torch.cat([torch.full((6,), 1 / 6, dtype=torch.float64), -p])
    gradient = rbm.gradient((both, rbm.hidden_mean(rbm.hidden_input(both)), weights))
    torch.testing.assert_close(flat(gradient), exact, rtol=1e-7, atol=1e-9)


@pytest.mark.statistical
@pytest.mark.parametrize(("kind", "block"), [("bernoulli", 1), ("centered", 2), ("gaussian", 2)])
def test_contrastive_divergence_with_long_chains_is_the_exact_gradient(kind, block):
    rbm = make_rbm(kind, block=block)
    data = values(rbm, 6)
    exact = exact_gradient(rbm, data, SHAPE)
    sampler = ContrastiveDivergence(steps=30, sample_last=True)
    start = rbm.hidden_input(data.repeat(200, 1, 1, 1))
    estimates = []
    for k in range(30):
        v, _ = sampler.draw(rbm, start, rbm.hidden_mean(start), generator(0, "chain", k))
        both = torch.cat([data, v])
        weights = torch.cat([torch.full((6,), 1 / 6), torch.full((1200,), -1 / 1200)]).double()
        estimates.append(flat(rbm.gradient((both, rbm.hidden_mean(rbm.hidden_input(both)), weights))))
    estimates = torch.stack(estimates)
    t = (estimates.mean(dim=0) - exact) / (estimates.std(dim=0) / 30**0.5)
    # A right sampler is rejected with probability 1e-6 for all components together.
    assert t.abs().max() < stats.t.isf(1e-6 / 2 / len(t), df=29)
    assert exact.abs().max() > 10 * estimates.std(dim=0).max() / 30**0.5


@pytest.mark.statistical
@pytest.mark.parametrize("temperatures", [1, 2, 5])
def test_persistent_chains_have_the_exact_marginals(temperatures):
    rbm, shape = make_rbm(), (1, 2, 2)
    states, p = visible_states(rbm, shape)
    sampler = PersistentChains(steps=1, chains=20_000, temperatures=temperatures)
    sampler.start(torch.zeros(1, *shape, dtype=torch.float64), generator(0, "start"))
    for k in range(60):
        v, figures = sampler.draw(rbm, NOTHING, NOTHING, generator(0, "draw", k))
    assert (figures.get("swaps", 0) > 0) == (temperatures > 1)
    counts = torch.stack([(v == state).flatten(1).all(dim=1).sum() for state in states])
    # The chains are independent: a right sampler is rejected with probability 1e-6.
    assert stats.chisquare(counts.numpy(), 20_000 * p.numpy()).pvalue > 1e-6
    for beta, chains in zip(sampler.betas, sampler.ladder, strict=True):
        tempered, q = visible_states(rbm.tempered(beta), shape)
        counts = torch.stack([(chains == state).flatten(1).all(dim=1).sum() for state in tempered])
        assert stats.chisquare(counts.numpy(), 20_000 * q.numpy()).pvalue > 1e-6


def test_exchanges_are_in_detailed_balance():
    rbm, shape = make_rbm(), (1, 2, 2)
    v, p = visible_states(rbm, shape)
    q = visible_states(rbm.tempered(0.4), shape)[1]
    x = rbm.hidden_input(v)
    first, second = torch.cartesian_prod(torch.arange(16), torch.arange(16)).T
    odds = log_exchange(rbm, x[first], x[second], 1.0, 0.4)
    expected = (p[second] * q[first] / (p[first] * q[second])).log()
    torch.testing.assert_close(odds, expected)


def test_chains_go_on_from_a_checkpoint():
    rbm = make_rbm()
    chains, fresh = (PersistentChains(steps=2, chains=7, temperatures=3) for _ in range(2))
    chains.start(values(rbm, 5), generator(0, "start"))
    chains.draw(rbm, NOTHING, NOTHING, generator(0, "first"))
    fresh.load_state_dict(chains.state_dict())
    again, expected = (c.draw(rbm, NOTHING, NOTHING, generator(0, "second"))[0] for c in (fresh, chains))
    assert torch.equal(again, expected)


@pytest.mark.parametrize("kind", ["bernoulli", "centered"])
def test_the_pseudo_likelihood_is_that_of_the_conditionals(kind):
    rbm = make_rbm(kind)
    v, p = visible_states(rbm, SHAPE)
    place = {tuple(bits): k for k, bits in enumerate((v > 0.5).flatten(1).tolist())}
    exact = []
    for image in (v[[3, 77, 300]] > 0.5).flatten(1).tolist():
        total = 0.0
        for i in range(9):
            other = [bit ^ (j == i) for j, bit in enumerate(image)]
            here, there = (float(p[place[tuple(bits)]]) for bits in (image, other))
            total += np.log(here / (here + there))
        exact.append(total)
    draws = pseudo_likelihood(rbm, v[[3, 77, 300]].repeat_interleave(20_000, dim=0), generator(0, "pl")).view(3, -1)
    z = (draws.mean(dim=1) - torch.tensor(exact)) / (draws.std(dim=1) / 20_000**0.5)
    assert z.abs().max() < stats.norm.isf(1e-6 / 2 / 3)


@pytest.mark.statistical
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_annealed_importance_sampling_finds_log_z(kind, block):
    rbm = make_rbm(kind, block=block)
    estimate, error = annealed_log_partition(
        rbm, SHAPE, chains=2000, temperatures=200, generator=generator(0, "anneal")
    )
    exact = float(log_partition(rbm, SHAPE))
    # Five standard errors: a right estimate is rejected with probability 6e-7.
    assert abs(estimate - exact) < 5 * error
    assert error < 0.05


def test_at_no_temperature_the_hidden_units_receive_nothing():
    rbm = make_rbm(block=2)
    v = values(rbm, 4)
    torch.testing.assert_close(rbm.tempered(1.0).free_energy(v), rbm.free_energy(v))
    constant = rbm.tempered(0.0).free_energy(v) - visible_energy(rbm, v)
    torch.testing.assert_close(constant, torch.full_like(constant, -2 * np.log(5)))


def test_the_centered_gradient_does_not_depend_on_what_is_called_zero():
    """A dense RBM and the one with every visible unit turned over learn the same (Melchior et al. 2016)."""
    rbm = make_rbm(channels=4, maps=3, size=1)
    weight, bias = rbm.weight, rbm.visible.bias
    turned = RBM(-weight, rbm.hidden_bias + weight.sum(dim=(1, 2, 3)), BinaryUnits(-bias, *ends(4)))
    v = values(rbm, 6, (4, 1, 1))
    weights = torch.tensor([0.5, 0.3, 0.2, -0.1, -0.1, -0.8], dtype=torch.float64)
    steps = []
    for one, data in ((rbm, v), (turned, 1 - v)):
        h = one.hidden_mean(one.hidden_input(data))
        gradient = one.gradient((data, h, weights))
        means = h[:3].mean(dim=(0, 2, 3)), data[:3].mean(dim=(0, 2, 3))
        steps.append(centered_gradient(gradient, *means, one.visible.gain, 1.0))
    straight, over = steps
    torch.testing.assert_close(over["weight"], -straight["weight"])
    torch.testing.assert_close(over["visible_bias"], -straight["visible_bias"])
    shifted = straight["hidden_bias"] + straight["weight"].sum(dim=(1, 2, 3))
    torch.testing.assert_close(over["hidden_bias"], shifted)


def ends(channels):
    return torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)


def test_the_centered_gradient_is_that_of_the_centered_parameters():
    rbm = make_rbm(channels=4, maps=3, size=1)
    v = values(rbm, 6, (4, 1, 1))
    weights = torch.tensor([0.5, 0.3, 0.2, -0.1, -0.1, -0.8], dtype=torch.float64)
    hidden_mean, visible_mean = torch.tensor([0.2, 0.5, 0.9]).double(), torch.tensor([0.1, 0.6, 0.4, 0.8]).double()
    centered = {
        "weight": rbm.weight.clone(),
        "hidden_bias": rbm.hidden_bias + rbm.weight[:, :, 0, 0] @ visible_mean,
        "visible_bias": rbm.visible.bias + hidden_mean @ rbm.weight[:, :, 0, 0],
    }

    def usual(weight, hidden_bias, visible_bias):
        w = weight[:, :, 0, 0]
        return weight, hidden_bias - w @ visible_mean, visible_bias - hidden_mean @ w

    def objective(parameters):
        weight, hidden_bias, visible_bias = usual(**parameters)
        return (weights * RBM(weight, hidden_bias, BinaryUnits(visible_bias, *ends(4))).free_energy(v)).sum()

    for parameter in centered.values():
        parameter.requires_grad_()
    slopes = torch.autograd.grad(objective(centered), list(centered.values()))
    rate = 0.01
    moved = usual(*(p.detach() - rate * g for p, g in zip(centered.values(), slopes, strict=True)))
    gradient = centered_gradient(
        rbm.gradient((v, rbm.hidden_mean(rbm.hidden_input(v)), weights)),
        hidden_mean,
        visible_mean,
        rbm.visible.gain,
        1.0,
    )
    torch.testing.assert_close(moved[0], rbm.weight - rate * gradient["weight"])
    torch.testing.assert_close(moved[1], rbm.hidden_bias - rate * gradient["hidden_bias"])
    torch.testing.assert_close(moved[2], rbm.visible.bias - rate * gradient["visible_bias"])


def test_a_dense_machines_centered_gradient_does_not_depend_on_which_hidden_state_is_called_on():
    """On average over pixels, which one bias serves: four pixels, of which a hidden unit's one position sees all."""
    rbm = make_rbm(maps=3)
    v = values(rbm, 6, (1, 2, 2))
    weights = torch.tensor([0.5, 0.3, 0.2, -0.1, -0.1, -0.8], dtype=torch.float64)
    on = rbm.hidden_mean(rbm.hidden_input(v))
    straight, over = (
        centered_gradient(
            rbm.gradient((v, h, weights)), h[:3].mean(dim=(0, 2, 3)), torch.zeros(1).double(), rbm.visible.gain, 1 / 4
        )
        for h in (on, 1 - on)
    )
    total = straight["weight"].sum(dim=(2, 3))
    torch.testing.assert_close(over["weight"].sum(dim=(2, 3)), -total)
    torch.testing.assert_close(over["hidden_bias"], -straight["hidden_bias"])
    torch.testing.assert_close(over["visible_bias"], straight["visible_bias"] + total.sum(dim=0) / 4)


def test_chains_that_stand_still_and_those_that_forget_are_told_apart():
    v = torch.rand(4000, 1, 3, 3, generator=generator(0, "v")) + torch.arange(9.0).view(1, 3, 3)
    other = torch.rand(4000, 1, 3, 3, generator=generator(0, "other")) + torch.arange(9.0).view(1, 3, 3)
    assert correlation(v, v) == pytest.approx(1)
    assert abs(correlation(v, other)) < 5 / (9 * 4000) ** 0.5
    assert correlation(v[:1], v[:1]) == correlation(torch.ones(5, 2), torch.ones(5, 2)) == 1
    expected = np.corrcoef((v - v.mean(dim=0)).flatten(), (other - other.mean(dim=0)).flatten())[0, 1]
    assert correlation(v, other) == pytest.approx(expected, abs=1e-5)
