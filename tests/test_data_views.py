import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as transforms

from pretrain import Views
from pretrain.runs.seeding import generator

NONE = {"crop": 1.0, "flip": False, "jitter": 0.0, "gray": 0.0}


def images(count=8, channels=3):
    return torch.rand(count, channels, 12, 12, generator=generator(0, "images"))


def test_with_everything_off_a_view_is_the_image():
    x = images()
    torch.testing.assert_close(Views(**NONE)(x, generator(1)), x, rtol=0, atol=1e-5)


def test_bytes_and_floats_have_the_same_views():
    pixels = (images() * 255).to(torch.uint8)
    torch.testing.assert_close(Views()(pixels, generator(1)), Views()(pixels.float() / 255, generator(1)))


def test_views_do_not_depend_on_the_precision_of_the_run():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = Views()(images(), generator(1))
    assert torch.equal(views, Views()(images(), generator(1)))


def test_half_of_the_views_are_mirrored():
    x = images(400)
    views = Views(**{**NONE, "flip": True})(x, generator(1))
    same, mirrored = ((views - other).abs().amax(dim=(1, 2, 3)) < 1e-4 for other in (x, x.flip(3)))
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 200) < 5 * 10


def test_views_without_colors_have_the_luminance_that_torchvision_gives():
    x = images()
    views = Views(**{**NONE, "gray": 1.0})(x, generator(1))
    torch.testing.assert_close(views, transforms.rgb_to_grayscale(x, 3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_by_some_factors_within_the_range(channels):
    x = images(1, channels)
    view = Views(**{**NONE, "jitter": 0.4})(x, generator(7))
    draw = torch.rand(5, 1, generator=(again := generator(7)))  # of the crop, which changes nothing here
    draw = torch.rand(4, 1, 1, 1, 1, generator=again).flatten()
    assert draw.numel() == 4
    brightness, contrast, saturation = (1 + 0.4 * (2 * draw[:3] - 1)).tolist()
    expected = transforms.adjust_contrast(transforms.adjust_brightness(x, brightness), contrast)
    expected = transforms.adjust_saturation(expected, saturation) if channels == 3 else expected
    torch.testing.assert_close(view, expected, rtol=0, atol=2e-3)


def test_a_crop_of_an_image_that_rises_evenly_rises_less_and_stays_within_it():
    ramp = torch.linspace(0, 1, 12).expand(200, 1, 12, 12)
    views = Views(**{**NONE, "crop": 0.2})(ramp, generator(1))
    widths = (views[..., 6, -2] - views[..., 6, 1]).flatten()  # away from the edges, which are reflected
    full = ramp[0, 0, 6, -2] - ramp[0, 0, 6, 1]
    share = widths / full
    assert views.min() >= 0
    assert views.max() <= 1
    assert share.min() ** 2 > 0.2 * (3 / 4) - 0.01  # a crop of the least area, at its narrowest
    assert share.min() < 0.6 < share.max() <= 1.001


@pytest.mark.parametrize(("size", "sides"), [(0.5, (4, 6)), (0.6, (5, 7)), (1, (8, 12))])
def test_a_view_of_another_size_is_the_image_resized(size, sides):
    x = images()[:, :, :8]
    resized = F.interpolate(x, sides, mode="bilinear")
    torch.testing.assert_close(Views(**NONE, size=size)(x, generator(1)), resized, rtol=0, atol=1e-5)


@pytest.mark.parametrize("crop", [0.1, 0.9])
def test_a_crop_has_at_least_the_share_of_the_area_asked_for(crop):
    # Of an image whose pixels are their own coordinates, a view's are an affine map: its determinant is the share.
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 40), indexing="ij")
    views = Views(**{**NONE, "crop": crop})(torch.stack([x, y]).expand(300, 2, 40, 40), generator(1))
    inner = views[:, :, 19:21, 19:21]  # away from the edges, which are reflected
    width, height = (inner[:, 0, :, 1] - inner[:, 0, :, 0]).mean(1), (inner[:, 1, 1] - inner[:, 1, 0]).mean(1)
    area, aspect = width * height * 39**2, width / height
    assert crop - 1e-3 < area.min() < crop + 0.1 * (1 - crop)
    assert 0.9 + 0.1 * crop < area.max() < 1.001
    assert 3 / 4 - 1e-3 < aspect.min() < aspect.max() < 4 / 3 + 1e-3


def test_the_same_draw_gives_the_same_view_and_each_image_has_its_own():
    x = images(1).repeat(2, 1, 1, 1)
    first, again = (Views()(x, generator(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])
