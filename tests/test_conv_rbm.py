"""The stage: that it learns, as scikit-learn's RBM does; its options; and that bfloat16 does it no harm."""

import copy
from dataclasses import fields

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM

from pretrain import ConvRBM, Layer, LayerSettings, Stack, Standardize, Training, UserError, assemble, fit_stage
from pretrain.rbm.likelihood import pseudo_likelihood
from pretrain.runs.seeding import generator, seeded
from pretrain.training.stage_inputs import Inputs

UNIT = torch.zeros(1), torch.ones(1)
LAYER = {field.name for field in fields(LayerSettings)}


def build(in_channels=1, out_channels=2, **options):
    settings = {"kernel_size": 2, "padding": 0, "activation": "sigmoid", "visible": "bernoulli", **options}
    layer = {key: settings.pop(key) for key in [*settings] if key in LAYER}
    with seeded(0, "rbm"):
        return ConvRBM(Layer(in_channels, out_channels, **layer), **settings)


def patches(count=64, channels=1, side=8):
    """Return images with a bright square at a random position and a little noise: (count, channels, side, side)."""
    draw = generator(0, "patches")
    images = 0.1 * torch.rand(count, channels, side, side, generator=draw)
    for image, (row, column) in zip(images, torch.randint(side - 3, (count, 2), generator=draw).tolist(), strict=True):
        image[:, row : row + 3, column : column + 3] += 0.8
    return images


def train(stage, fabric, images=None, **options):
    images = patches() if images is None else images
    preprocessing = Standardize.from_images(images) if stage.visible == "gaussian" else Standardize.identity(1)
    inputs = Inputs(images, torch.nn.Sequential(preprocessing), fabric, 0)
    settings = {"steps": 200, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.05, "nesterov": False, **options}
    fit_stage(stage, inputs, Training(**settings), seed=0, name="stage 1", fabric=fabric)
    return inputs[torch.arange(len(images))]


def test_in_eval_mode_the_gradient_is_torchs_own_of_the_free_energy():
    stage = build(padding=1).eval()
    x = patches()
    metrics = stage.accumulate_grad(x, generator(0))
    positions = stage.rbm.hidden_input(x)[0, 0].numel()
    objective = stage.rbm.free_energy(x).mean() / positions
    assert metrics["free_energy"] == pytest.approx(float(objective.detach()), rel=1e-6)
    learned = [p for p in stage.parameters() if p.requires_grad]
    for parameter, expected in zip(learned, torch.autograd.grad(objective, learned), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.statistical
@pytest.mark.parametrize("centered", [False, True])
def test_a_dense_rbm_learns_digits_as_well_as_scikit_learns(fabric, centered):
    """Pseudo-likelihood after as many updates, of the same size, with the same chains: persistent ones."""
    digits = torch.from_numpy(load_digits().images).float()[:, None] / 16
    theirs = BernoulliRBM(64, learning_rate=0.05, batch_size=100, n_iter=10, random_state=0)
    theirs.fit(digits.flatten(1).numpy())
    stage = build(out_channels=64, kernel_size=8, pool_kernel_size=1, sampler="pcd", chains=100, centered=centered)
    plain = {"momentum": 0.0, "schedule": "constant", "warmup": 0.0}
    train(stage, fabric, digits, steps=10 * len(digits) // 100, batch_size=100, **plain)
    ours = pseudo_likelihood(stage.rbm, digits.repeat(20, 1, 1, 1), generator(0, "pl")).mean()
    expected = torch.tensor([theirs.score_samples(digits.flatten(1).numpy()).mean() for _ in range(20)]).mean()
    assert ours > expected


@pytest.mark.statistical
@pytest.mark.parametrize("sampler", ["cd", "pcd", "pt"])
def test_every_sampler_learns_to_tell_its_images_from_noise(fabric, sampler):
    stage = build(out_channels=8, kernel_size=3, sampler=sampler, chains=32, temperatures=4)
    x = train(stage, fabric, steps=400, learning_rate=0.2)
    with torch.no_grad():
        shuffled = x.flatten(1)[:, torch.randperm(64, generator=generator(0, "noise"))].view_as(x)
        assert stage.rbm.free_energy(x).mean() < stage.rbm.free_energy(shuffled).mean() - 5


@pytest.mark.statistical
def test_the_learned_variance_is_that_of_images_that_have_no_structure(fabric):
    noise = 0.5 + 0.3 * torch.randn(512, 1, 8, 8, generator=generator(0, "noise"))
    stage = build(visible="gaussian", variance="learned", sample_last=True)
    train(stage, fabric, noise * 0.5, steps=600, batch_size=128, learning_rate=0.05, schedule="cosine")
    # Standardized: 1, within what 600 small steps from anywhere near it leave.
    assert float(stage.log_variance.detach().exp()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.statistical
@pytest.mark.parametrize("sparsity", ["lee", "hinton"])
@pytest.mark.parametrize("pooling", ["max", "probabilistic"])
def test_sparsity_pulls_the_mean_activation_to_its_target(fabric, sparsity, pooling):
    options = {"sparsity": sparsity, "sparsity_target": 0.1, "sparsity_weight": 20.0, "pooling": pooling}
    stage = build(kernel_size=3, out_channels=4, **options)
    x = train(stage, fabric, steps=800, learning_rate=0.02, momentum=0.5)
    mean = stage.rbm.hidden_mean(stage.rbm.hidden_input(x)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(mean.detach(), torch.full_like(mean, 0.1), atol=0.002, rtol=0)


def test_filters_are_no_longer_than_max_norm(fabric):
    stage = build(out_channels=8, kernel_size=3, max_norm=0.3)
    train(stage, fabric, learning_rate=0.2)
    norms = stage.layer.conv.weight.detach().flatten(1).norm(dim=1)
    assert norms.max() == pytest.approx(0.3, rel=1e-5)


@pytest.mark.statistical
def test_centering_learns_from_dark_images_and_bright_ones_alike(fabric):
    """What a centered RBM makes of images and of their negatives is the same but for the sign of its filters."""
    filters = []
    for images in (patches(), 1 - patches()):
        stage = build(out_channels=8, kernel_size=3, centered=True)
        train(stage, fabric, images, learning_rate=0.2)
        filters.append(stage.layer.conv.weight.flatten(1).detach())
    norms = [f.norm() for f in filters]
    assert norms[0] == pytest.approx(float(norms[1]), rel=0.1)


def test_persistent_chains_of_an_interrupted_run_go_on(fabric):
    whole, broken = (build(sampler="pcd", chains=8) for _ in range(2))
    for stage in (whole, broken):
        stage.prepare(patches(), UNIT, generator(0, "start"))
    for k in range(3):
        whole.accumulate_grad(patches(), generator(0, k))
    for k in range(2):
        broken.accumulate_grad(patches(), generator(0, k))
    fresh = build(sampler="pcd", chains=8)
    fresh.load_state_dict(broken.state_dict())
    for parameter in (*fresh.parameters(), *whole.parameters()):
        parameter.grad = None
    fresh.accumulate_grad(patches(), generator(0, 2))
    assert torch.equal(fresh.sampler.states, whole.sampler.states)


def test_binary_units_take_the_values_that_black_and_white_have_once_standardized(fabric):
    images = patches()
    standardize = Standardize.from_images(images)
    stage = build()
    stage.prepare(standardize(images), standardize.bounds, generator(0))
    assert float(stage.rbm.visible.low) == pytest.approx(float(standardize(torch.zeros(1, 1, 1, 1))))
    assert float(stage.rbm.visible.high) == pytest.approx(float(standardize(torch.ones(1, 1, 1, 1))))


def test_binary_units_on_the_standardized_probabilities_of_a_stage_are_those_on_the_probabilities():
    images = patches(side=7)
    stack = Stack([build(1, 3), build(3, 2)], images, preprocessing="none", normalization="standardize")
    lower = stack[0].layer
    probabilities = stack.below(1)(images).detach()
    lower.normalize(images, "standardize")
    standardized = stack.below(1)(images).detach()
    plain, centered = build(3, 2), build(3, 2)
    plain.prepare(probabilities, (torch.zeros(3), torch.ones(3)), generator(0))
    centered.prepare(standardized, lower.bounds, generator(0))
    torch.testing.assert_close(centered.visible_bias, plain.visible_bias)
    with torch.no_grad():  # the same RBM: filters on the standardized scale
        conv = plain.layer.conv
        centered.layer.conv.weight.copy_(conv.weight / lower.scale[:, None, None])
        centered.layer.conv.bias.copy_(conv.bias + (conv.weight * lower.shift[:, None, None]).sum(dim=(1, 2, 3)))
        torch.testing.assert_close(centered.rbm.free_energy(standardized), plain.rbm.free_energy(probabilities))


def test_the_layer_puts_out_the_probability_that_a_window_is_on():
    stage = build(pooling="probabilistic")
    x = patches(side=5)
    mean = stage.rbm.hidden_mean(stage.rbm.hidden_input(x))
    windows = mean.unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(4, 5))
    torch.testing.assert_close(stage.layer(x), windows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visible": "poisson"}, "choose one of gaussian, bernoulli"),
        ({"activation": "triangle"}, "layer.activation=triangle: this kind of stage needs sigmoid or relu"),
        ({"stride": 2}, "layer.stride=2: the filters of an RBM take every position"),
        ({"sampler": "gibbs"}, "choose one of cd, pcd, pt"),
        ({"sparsity": "l1"}, "choose one of none, lee, hinton"),
        ({"activation": "relu", "pooling": "probabilistic"}, "pooling=probabilistic needs activation=sigmoid"),
        ({"variance": "learned"}, "variance=learned needs visible=gaussian"),
        ({"visible": "gaussian", "variance": "learned"}, "sample_last=true"),
        ({"gibbs_steps": 0}, "gibbs_steps=0: it must be a whole number at least 1"),
        ({"max_norm": 0.0}, "max_norm=0.0: it must be a number at least"),
        ({"temperatures": 1}, "temperatures=1: it must be a whole number at least 2"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_images_of_one_gray_neither_diverge_nor_stop_the_chains(fabric):
    for options in ({"visible": "gaussian"}, {"sampler": "pcd", "chains": 1}):
        train(build(**options), fabric, torch.full((8, 1, 8, 8), 0.5), steps=40, batch_size=8, learning_rate=0.01)


def test_a_dead_map_below_leaves_the_bounds_of_its_units_within_reach_of_the_others():
    lower = build(1, 3, kernel_size=3, padding=1)
    torch.nn.init.normal_(lower.layer.conv.weight, generator=generator(0, "weights"))
    with torch.no_grad():
        lower.layer.conv.bias[0] = -30.0
    lower.layer.normalize(patches(), "standardize")
    low, high = lower.layer.bounds
    assert (high - low).max() < 11 * (high - low).min()


def test_binary_units_refuse_inputs_without_bounds():
    bounds = torch.zeros(1), torch.full((1,), torch.inf)
    with pytest.raises(UserError, match="visible=bernoulli needs inputs that lie between two bounds"):
        build().prepare(patches(), bounds, generator(0))


def test_an_rbm_that_diverges_names_the_learning_rate(fabric):
    stage = build(visible="gaussian", activation="relu", out_channels=16, kernel_size=5)
    with pytest.raises(
        UserError, match="visible units are Gaussian and the learning rate 3 is 10 to 100 times too large"
    ):
        train(stage, fabric, learning_rate=3.0)


@pytest.mark.parametrize("visible", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("pooling", ["max", "probabilistic"])
def test_bfloat16_changes_no_statistics(visible, pooling):
    """Against float64: each probability within 0.01, their mean within 1e-4, and the gradient within 1%."""
    stage = build(3, 32, kernel_size=5, visible=visible, pooling=pooling)
    torch.nn.init.normal_(stage.layer.conv.weight, std=0.15, generator=generator(0, "weights"))
    torch.nn.init.constant_(stage.layer.conv.bias, -2.0)
    x = torch.rand(64, 3, 16, 16, generator=generator(0, "x"))
    x = 4 * x - 2 if visible == "gaussian" else (x < 0.4).float()
    exact = copy.deepcopy(stage).double().rbm
    weights = torch.cat([torch.full((32,), 1 / 32), torch.full((32,), -1 / 32)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        received = stage.rbm.hidden_input(x)
        h = stage.rbm.hidden_mean(received)
        gradient = stage.rbm.gradient((x, h, weights))
        drawn = stage.rbm.sample_hidden(received, generator(0, "h"))
    with torch.no_grad():
        expected = exact.hidden_mean(exact.hidden_input(x.double()))
        expected_gradient = exact.gradient((x.double(), expected, weights.double()))
    assert received.dtype == h.dtype == drawn.dtype == torch.float32
    assert (h - expected).abs().max() < 0.01
    assert (h - expected).mean().abs() < 1e-4
    for name, value in gradient.items():
        error = (value - expected_gradient[name]).norm() / expected_gradient[name].norm()
        assert error < 0.01, name
    # Draws of 300,000 units: their mean is within six standard errors of the exact one, but for 2e-9 of all seeds.
    spread = (expected * (1 - expected)).sum().sqrt() / expected.numel()
    assert (drawn.mean() - expected.mean()).abs() < 6 * spread


def test_a_stack_of_rbms_becomes_a_network_that_computes_the_same():
    images = patches(side=14)
    stack = Stack([build(1, 3, kernel_size=3), build(3, 2, kernel_size=3)], images, normalization="standardize")
    for position, stage in enumerate(stack):
        stage.layer.normalize(stack.below(position)(images), "standardize")
    network = assemble(stack, ["a", "b"], seed=0).eval()
    torch.testing.assert_close(network.layers(network.preprocessing(images)), stack.below(2)(images))
