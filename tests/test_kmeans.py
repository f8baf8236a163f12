from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

import pretrain
from pretrain import Device, KMeans, Layer, LayerSettings, Standardize, Training, UserError, fit_stage
from pretrain.network.preprocessing import contrast_normalized
from pretrain.runs.seeding import generator, seeded
from pretrain.training.stage_inputs import Inputs

BOUNDS = torch.zeros(2), torch.ones(2)
LAYERS = {
    pretrain.ConvAutoencoder: lambda: Layer(2, 6),
    pretrain.ConvRBM: lambda: Layer(2, 6, padding=0, activation="sigmoid", pooling="probabilistic"),
}


def layer_options(options):
    """Split the settings of a stage into those of its layer and its own."""
    names = {field.name for field in fields(LayerSettings)}
    return [{key: value for key, value in options.items() if (key in names) == of_layer} for of_layer in (True, False)]


def build(in_channels=2, out_channels=6, **options):
    layer, own = layer_options(options)
    with seeded(0, "test"):
        return KMeans(Layer(in_channels, out_channels, **layer), **own)


def inputs(count=20, channels=2, side=10):
    smooth = torch.randn(count, channels, side, side, generator=generator(0, "inputs"))
    return F.avg_pool2d(smooth, 3, stride=1, padding=1) + 0.2 * smooth


def prepared(**options):
    stage = build(**options).double()
    stage.prepare(inputs().double(), BOUNDS, generator(0, "prepare"))
    return stage


def centroids(stage):
    return stage.centroids.detach()


def test_whitened_patches_are_uncorrelated_but_for_the_regularizer():
    stage = prepared(whitening=1e-6)
    p = stage.whitened.draw(inputs().double(), 50_000, generator(0, "prepare"))
    whitened = (p - stage.whitened.mean) @ stage.whitened.whiten
    variances = PCA().fit(whitened.numpy()).explained_variance_
    assert variances[:-1] == pytest.approx(1, abs=0.01)
    assert variances[-1] == pytest.approx(0, abs=1e-6)  # a patch has lost its mean


def test_the_layers_filters_answer_as_the_centroids_do_to_the_whitened_patch():
    stage = prepared(padding=0, pool_kernel_size=1)
    x = inputs(3).double()
    with torch.no_grad():
        answers = F.conv2d(x, stage.layer.conv.weight).flatten(2)  # (N, K, positions)
    patches = F.unfold(x, 3).transpose(1, 2)
    centered = patches - patches.mean(dim=2, keepdim=True)
    mean, whiten = stage.whitened.mean, stage.whitened.whiten
    expected = (centered - mean) @ whiten @ centroids(stage).T  # contrast is not divided by
    offset = -(mean @ whiten @ centroids(stage).T)
    torch.testing.assert_close(answers.transpose(1, 2), expected - offset)


def test_centroids_have_unit_norm():
    stage = prepared()
    torch.testing.assert_close(centroids(stage).norm(dim=1), torch.ones(6, dtype=torch.float64))
    with torch.no_grad():
        stage.layer.conv.weight.mul_(7)
    stage.constrain()
    torch.testing.assert_close(centroids(stage).norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_a_step_of_rate_one_puts_each_centroid_at_the_direction_of_the_mean_of_its_patches():
    stage, x = prepared(patches=40).float(), inputs()
    p = stage.whitened(stage.whitened.draw(x, len(x) * 40, generator(0, "noise")))
    nearest = [int((centroids(stage) @ row).argmax()) for row in p]
    expected = centroids(stage)
    for k in set(nearest):
        mean = torch.stack([row for row, n in zip(p, nearest, strict=True) if n == k]).mean(dim=0)
        expected[k] = mean / mean.norm()
    stage.accumulate_grad(x, generator(0, "noise"))
    with torch.no_grad():
        stage.layer.conv.weight -= stage.layer.conv.weight.grad
    stage.constrain()
    torch.testing.assert_close(centroids(stage), expected, rtol=1e-4, atol=1e-5)


def test_planted_patterns_are_found():
    # Each image is one of four patterns everywhere, and noise: its 3x3 patches, which touch no edge, are the pattern's.
    patterns = torch.randn(4, 1, 3, 3, generator=generator(3))
    which = torch.randint(4, (400,), generator=generator(4))
    images = patterns[which] + 0.05 * torch.randn(400, 1, 3, 3, generator=generator(5))
    stage = build(1, 12, patches=1, padding=0, pool_kernel_size=1)
    fabric = Device(accelerator="cpu", precision="32-true").launch()
    data = Inputs(images, torch.nn.Sequential(Standardize.identity(1)), fabric, 0)
    settings = Training(steps=100, batch_size=100, optimizer="sgd", learning_rate=0.5, momentum=0.0)
    fit_stage(stage, data, settings, seed=1, name="stage 1", fabric=fabric)
    z = stage.whitened(contrast_normalized(images.flatten(1), stage.whitened.least_contrast))
    found = (z @ centroids(stage).T).argmax(dim=1)
    pairs = {(int(a), int(b)) for a, b in zip(which, found, strict=True)}
    assert {a for a, _ in pairs} == {0, 1, 2, 3}
    assert len({b for _, b in pairs}) == len(pairs)  # no centroid wins images of two patterns


@pytest.mark.parametrize("activity", [0.1, 0.5])
def test_each_map_is_active_at_the_share_of_positions_asked_for(activity):
    stage = prepared(activity=activity)
    stage.finish(inputs().double())
    share = (stage.layer.hidden(inputs().double()) > 0).double().mean(dim=(0, 2, 3))
    torch.testing.assert_close(share, torch.full_like(share, activity), rtol=0, atol=1.5 / (20 * 100))


def test_maps_that_compete_have_zero_mean_before_they_do():
    stage = prepared(activation="triangle")
    stage.finish(inputs().double())
    with torch.no_grad():
        means = stage.layer.conv(inputs().double()).mean(dim=(0, 2, 3))
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-12)


def test_images_of_one_gray_give_filters_that_are_finite():
    stage = build()
    stage.prepare(torch.full((20, 2, 10, 10), 0.5), BOUNDS, generator(0, "prepare"))
    assert stage.layer.conv.weight.isfinite().all()


def test_a_centroid_without_patches_stays_where_it_is():
    stage = prepared(patches=1)
    metrics = stage.accumulate_grad(inputs(2).double(), generator(0, "noise"))
    still = (stage.layer.conv.weight.grad.flatten(1) == 0).all(dim=1)
    assert still.double().mean() == pytest.approx(metrics["empty"])
    assert still.sum() >= 4


def start(kind, filter_init):
    with seeded(0, "test"):
        stage = kind(LAYERS[kind](), filter_init=filter_init)
    stage.prepare(inputs(), BOUNDS, generator(0, "prepare"))
    return stage.layer.conv.weight.detach().flatten(1)


def distance_of(filters):
    """Return the mean distance of patches to these filters as centroids."""
    stage = prepared(patches=50)
    with torch.no_grad():
        stage.layer.conv.weight.copy_((filters.double() @ stage.whitened.whiten).view_as(stage.layer.conv.weight))
    stage.constrain()
    return stage.accumulate_grad(inputs().double(), generator(0, "distance"))["distance"]


@pytest.mark.parametrize(("kind", "padding"), [(pretrain.ConvAutoencoder, 1), (pretrain.ConvRBM, 0)])
def test_other_stages_start_from_whitened_patches(kind, padding):
    filters = start(kind, "patches")
    torch.testing.assert_close(filters.norm(), start(kind, "random").norm())
    same_draw = centroids(prepared(padding=padding)).float()
    torch.testing.assert_close(F.cosine_similarity(filters, same_draw), torch.ones(6))


def test_a_filter_as_large_as_the_image_starts_as_a_whitened_image():
    images = inputs(40, channels=1, side=8)
    whole = {"kernel_size": 8, "padding": 0, "pool_kernel_size": 1}
    rbm = pretrain.ConvRBM(Layer(1, 6, activation="sigmoid", **whole), filter_init="patches")
    rbm.prepare(images, BOUNDS, generator(0, "prepare"))
    other = KMeans(Layer(1, 6, **whole))
    other.prepare(images, BOUNDS, generator(0, "prepare"))
    whitened = other.whitened(contrast_normalized(images.flatten(1), other.whitened.least_contrast))
    nearest = F.normalize(rbm.layer.conv.weight.detach().flatten(1)) @ whitened.T
    assert nearest.max(dim=1).values.numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", [pretrain.ConvAutoencoder, pretrain.ConvRBM])
def test_k_means_finds_them_centroids_that_are_nearer(kind):
    assert distance_of(start(kind, "kmeans")) < distance_of(start(kind, "patches"))


def test_starting_from_patches_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    stage = pretrain.ConvAutoencoder(Layer(2, 6), filter_init="kmeans")
    torch.manual_seed(5)
    stage.prepare(inputs(), BOUNDS, generator(0, "prepare"))
    assert torch.equal(torch.rand(3), expected)


def test_an_autoencoders_own_decoder_starts_from_the_same_patches():
    stage = pretrain.ConvAutoencoder(Layer(2, 6), filter_init="patches", tied=False)
    stage.prepare(inputs(), BOUNDS, generator(0, "prepare"))
    assert torch.equal(stage.decoder, stage.layer.conv.weight)


def test_patches_are_those_that_the_padded_convolution_sees():
    stage, x = build(1, 4), torch.rand(1, 1, 2, 2, generator=generator(1))
    found = stage.whitened.draw(x, 200, generator(0))
    seen = contrast_normalized(F.unfold(x, 3, padding=1)[0].T, stage.whitened.least_contrast)
    nearest = (found[:, None] - seen).norm(dim=2).min(dim=1)
    assert nearest.values.max() < 1e-5
    assert nearest.indices.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [{"activity": 1.0}, {"activation": "sigmoid"}, {"patches": 0}, {"whitening": 0.0}])
def test_settings_that_cannot_be_meant_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        build(**options)
