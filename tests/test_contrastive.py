from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from pretrain import Contrastive, Layer, LayerSettings, Stack, Training, UserError, Views, fit_stages
from pretrain.runs.seeding import generator, seeded

LAYER = {field.name for field in fields(LayerSettings)}


def build(**options):
    settings = {"projection_hidden": 8, "projection_size": 4, **options}
    layer = {key: settings.pop(key) for key in [*settings] if key in LAYER}
    with seeded(0, "test"):
        return Contrastive(Layer(2, 6, **layer), **settings).double()


def views(count=6):
    images = torch.rand(count, 2, 8, 8, generator=generator(0, "images"), dtype=torch.float64)
    noise = torch.rand(2 * count, 2, 8, 8, generator=generator(0, "noise"), dtype=torch.float64)
    return images.repeat(2, 1, 1, 1) + 0.1 * noise


def test_the_normalization_becomes_a_part_of_the_layer():
    stage, x = build(), views()
    u = F.batch_norm(stage.layer.conv(x), None, None, training=True)
    expected = F.max_pool2d(u.relu(), 2)
    stage.finish(x)
    torch.testing.assert_close(stage.layer(x), expected)


@pytest.mark.parametrize("loss", ["info_nce", "vicreg"])
def test_the_loss_is_the_same_once_it_is_one(loss):
    stage, x = build(loss=loss), views()
    before = stage.losses(x, generator(0))["loss"]
    stage.finish(x)
    torch.testing.assert_close(stage.losses(x, generator(0))["loss"], before, rtol=1e-4, atol=0)  # but for EPSILON


def test_views_that_are_the_same_are_found_and_others_are_not():
    stage, x = build(), views()
    first = x.chunk(2)[0]
    same = stage.losses(torch.cat([first, first]), generator(0))
    other = stage.losses(torch.cat([first, first.roll(1, 0)]), generator(0))
    assert same["similarity"] == pytest.approx(1)
    assert same["loss"] < other["loss"]


def test_the_order_of_the_images_does_not_matter_but_the_pairs_do():
    stage, x = build(), views()
    order = torch.randperm(6, generator=generator(1))
    first, second = x.chunk(2)
    loss = stage.losses(x, generator(0))["loss"]
    torch.testing.assert_close(stage.losses(torch.cat([first[order], second[order]]), generator(0))["loss"], loss)
    assert not torch.isclose(stage.losses(torch.cat([first[order], second]), generator(0))["loss"], loss)


@pytest.mark.parametrize(("loss_per", "alone"), [("position", True), ("image", False)])
def test_a_position_is_compared_with_itself_alone_if_asked_to(loss_per, alone):
    stage, x = build(kernel_size=1, pool_kernel_size=1, grid_size=8, loss_per=loss_per), views()
    before = stage.losses(x, generator(0))["loss"]
    for view in x.chunk(2):  # another image there, in both of its views
        view[:, :, 3, 5] = view[:, :, 3, 5].roll(1, 0)
    after = stage.losses(x, generator(0))["loss"]
    assert torch.isclose(after, before, rtol=1e-9) == alone


def test_a_grid_finer_than_the_maps_is_the_maps():
    x = views()
    assert build(grid_size=4).losses(x, generator(0)) == build(grid_size=99).losses(x, generator(0))


@pytest.mark.parametrize(("batch_size", "images"), [(1, 20), (16, 1)])
def test_a_single_image_cannot_be_told_from_others(batch_size, images, digits, fabric):
    stack, few = Stack([Contrastive(Layer(1, 4))], digits.unlabelled), digits.unlabelled[:images]
    with pytest.raises(UserError, match=f"batch_size={batch_size} with {images} unlabelled images"):
        fit_stages(stack, few, Training(steps=2, batch_size=batch_size), fabric=fabric)


def test_health_is_that_of_the_normalized_maps():
    stage, x = build(), views()
    with torch.no_grad():
        stage.layer.conv.bias.fill_(-100)
    figures = stage.health(x, generator(0))
    stage.finish(x)
    hidden = stage.layer.hidden(x)
    assert figures["dead"] == 0
    assert figures["hidden_mean"] == pytest.approx(float(hidden.detach().mean()), rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"loss": "hinge"}, {"loss_per": "pixel"}, {"temperature": 0}, {"grid_size": 0}, {"activation": "zero_bias_relu"}],
)
def test_settings_that_cannot_be_meant_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        build(**options)


def test_views_that_are_too_small_for_the_layers_are_refused_before_anything_is_trained():
    images = torch.zeros(4, 3, 16, 16)
    layers = [Contrastive(Layer(3, 4)), Contrastive(Layer(4, 4), views=Views(size=0.5))]
    assert len(Stack(layers, images)) == 2  # 8 pixels are pooled to 4 and to 2
    with pytest.raises(
        UserError, match=r"stage 2, views\.size=0\.1: views do not fit through the layers: stage 2\.conv"
    ):
        Stack([Contrastive(Layer(3, 4)), Contrastive(Layer(4, 4), views=Views(size=0.1))], images)
