import numpy as np
import pytest
import scipy.stats
import torch

from pretrain.data.augmentation import mixup, random_crop, random_flip
from pretrain.runs.seeding import generator

HEIGHT, WIDTH = 6, 5


def noise(n, dtype=torch.uint8):
    values = torch.rand(n, 2, HEIGHT, WIDTH, generator=generator(0, "noise"), dtype=torch.float64)
    return (values * 255).to(dtype)


def crop_shifts(images, crops, padding):
    """Find each crop among the windows of its image as NumPy pads it: (row, column), or None."""
    edges = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    padded = np.pad(images.numpy(), edges, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (HEIGHT, WIDTH), axis=(2, 3))
    same = (windows == crops.numpy()[:, :, None, None]).all(axis=(1, 4, 5))
    return [tuple(int(x) for x in np.argwhere(s)[0]) if s.any() else None for s in same]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("padding", [1, 2, 4])
def test_a_crop_is_a_window_of_the_reflected_image(padding, dtype):
    images = noise(40, dtype)
    crops = random_crop(images, padding, generator(1))
    assert crops.dtype == dtype
    assert crops.shape == images.shape
    assert None not in crop_shifts(images, crops, padding)


@pytest.mark.parametrize("padding", [1, 2])
def test_every_shift_occurs(padding):
    # A fair crop misses one of the 25 shifts with probability below 25 * (24/25)^1000 < 1e-16.
    images = noise(1000)
    shifts = set(crop_shifts(images, random_crop(images, padding, generator(2)), padding))
    assert shifts == {(row, column) for row in range(2 * padding + 1) for column in range(2 * padding + 1)}


def test_images_of_one_batch_are_shifted_each_in_its_own_way():
    images = noise(1).expand(20, -1, -1, -1)
    assert len(set(crop_shifts(images, random_crop(images, 2, generator(3)), 2))) > 5


def test_a_crop_without_padding_is_the_image():
    images = noise(5)
    assert torch.equal(random_crop(images, 0, generator(4)), images)


def test_a_flip_gives_the_image_or_its_mirror_each_about_half_the_time():
    # A fair flip leaves 420 to 580 of 1,000 with probability 3e-7.
    images = noise(1000)
    flips = random_flip(images, generator(5))
    same = (flips == images).flatten(1).all(1)
    mirrored = (flips == torch.from_numpy(images.numpy()[..., ::-1].copy())).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 420 <= mirrored.sum() <= 580
    assert flips.dtype == images.dtype


@pytest.mark.parametrize(
    "augment",
    [lambda x, g: random_crop(x, 2, g), random_flip, lambda x, g: mixup(x.float(), 1.0, g)[0]],
    ids=["crop", "flip", "mixup"],
)
def test_the_generator_decides_and_the_input_is_left_alone(augment):
    images = noise(50)
    before = images.clone()
    first, again, other = (augment(images, generator(seed)) for seed in (6, 6, 7))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


def test_a_mixture_is_its_share_of_an_image_and_the_rest_of_its_partner():
    images = noise(30).double()
    mixed, partners, share = mixup(images, 0.5, generator(8))
    assert torch.allclose(mixed, share * images + (1 - share) * images[partners], rtol=0, atol=1e-12)
    assert sorted(partners.tolist()) == list(range(30))


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_shares_follow_the_greater_of_a_beta_variable_and_its_complement(alpha):
    # max(b, 1 - b) is below t when b lies between 1 - t and t.
    shares = [mixup(noise(2).float(), alpha, generator(9, str(k)))[2] for k in range(500)]
    beta = scipy.stats.beta(alpha, alpha)
    assert scipy.stats.kstest(shares, lambda t: beta.cdf(t) - beta.cdf(1 - t)).pvalue > 1e-3
