from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from scipy.signal import lfilter
from torch.utils.flop_counter import FlopCounterMode

from pretrain import ConvAutoencoder, ConvNet, Layer, Stack, Standardize, UserError, Whiten, assemble, layer_rows
from pretrain.network.preprocessing import LEAST_CONTRAST
from pretrain.network.shapes import PREPROCESSINGS
from pretrain.network.whitening import FIT_PREPROCESSING, REGULARIZER, zca_kernel
from pretrain.runs.seeding import generator, seeded


def pictures(count=12, side=8):
    return torch.randint(256, (count, 3, side, side), generator=generator(0, "pictures"), dtype=torch.uint8)


def autoregressive(count=1000, side=24, rho=0.7, channels=1):
    """Return images, in [0, 1], whose pixels have the correlation rho^|dy| rho^|dx|."""
    draw = np.random.default_rng(0)
    noise = draw.standard_normal((count, channels, 2 * side, 2 * side))
    rows = lfilter([1], [1, -rho], noise, axis=2)
    x = lfilter([1], [1, -rho], rows, axis=3)[:, :, side:, side:] * (1 - rho**2)
    return torch.from_numpy(0.5 + 0.1 * x).float().clamp(0, 1)


def equal_contrast(pixels):
    mean, variance = (f(dim=(1, 2, 3), keepdim=True) for f in (pixels.mean, partial(pixels.var, correction=0)))
    return (pixels - mean) / (variance + LEAST_CONTRAST).sqrt()


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_standardization_has_the_statistics_that_numpy_gives():
    images = pictures(count=50)
    pixels = images.numpy() / 255
    standardize = Standardize.from_images(images)
    np.testing.assert_allclose(standardize.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(standardize.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)
    standardized = standardize(images)
    np.testing.assert_allclose(standardized.mean(dim=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(standardized.std(dim=(0, 2, 3), correction=0), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", [Standardize, Whiten])
def test_bytes_and_floats_are_preprocessed_alike(kind):
    from_bytes, from_floats = kind.from_images(pictures()), kind.from_images(pictures() / 255)
    assert equal(from_bytes.state_dict(), from_floats.state_dict())
    assert torch.equal(from_bytes(pictures()), from_bytes(pictures() / 255))


@pytest.mark.parametrize("kind", [Standardize, Whiten])
def test_the_identity_leaves_pixels_as_they_are(kind):
    assert torch.equal(kind.identity(3)(pictures()), pictures() / 255)


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("images", [pictures(), autoregressive(20)], ids=["white", "autoregressive"])
def test_preprocessing_can_be_undone(name, images):
    preprocessing = FIT_PREPROCESSING[name](images)
    pixels = images / 255 if images.dtype == torch.uint8 else images
    if preprocessing.contrast:  # which cannot
        pixels = (0.5 + 0.25 * equal_contrast(pixels)).clamp(0, 1)
    torch.testing.assert_close(preprocessing.inverse(preprocessing(images)), pixels, rtol=0, atol=1e-4)
    extremes = torch.tensor([-99.0, 99.0])[:, None, None, None].expand(2, *images.shape[1:])
    assert preprocessing.inverse(extremes).unique().tolist() == [0, 1]


@pytest.mark.parametrize("kind", [Standardize, Whiten])
def test_with_equal_contrast_brightness_and_haze_do_not_matter(kind):
    images = autoregressive(200, channels=3)
    preprocessing = kind.from_images(images, contrast=True)
    hazy = 0.2 + 0.9 * images
    torch.testing.assert_close(preprocessing(hazy), preprocessing(images), rtol=0, atol=0.1)  # but for LEAST_CONTRAST
    seen = preprocessing(images)
    preprocessing.contrast = False
    torch.testing.assert_close(seen, preprocessing(equal_contrast(images)))
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(seen.std(dim=(0, 2, 3)), torch.ones(3), rtol=0.01, atol=0)
    preprocessing.contrast = True
    assert not torch.stack(preprocessing.bounds).isfinite().any()


def test_whitened_digits_can_be_brought_back(digits):
    whiten = Whiten.from_images(digits.unlabelled)
    some = digits.unlabelled[:20]
    torch.testing.assert_close(whiten.inverse(whiten(some)), some / 255, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("side", [1, 2, 5])
def test_images_of_a_single_gray_value_stay_finite(name, side):
    images = torch.full((2, 3, side, side), 7, dtype=torch.uint8)
    assert FIT_PREPROCESSING[name](images)(images).isfinite().all()


def test_the_filter_that_whitens_white_noise_is_a_delta():
    noise = torch.rand(2000, 2, 16, 16, generator=generator(0, "noise"))
    kernel = Whiten.from_images(noise).kernel
    torch.testing.assert_close(kernel, Whiten.identity(2, 9).kernel, rtol=0, atol=0.02)


def test_whitening_flattens_the_spectrum_of_autoregressive_images():
    """Of an input of spectrum S, a patch wide enough leaves S / (S + r): Wiener's filter, before it is scaled."""
    rho, images = 0.7, autoregressive()
    kernel = Whiten.from_images(images).kernel[0, 0]
    one = (1 - rho**2) / np.abs(1 - rho * np.exp(-2j * np.pi * np.fft.fftfreq(32))) ** 2
    spectrum = one[:, None] * one
    left = np.abs(np.fft.fft2(kernel, (32, 32))) ** 2 * spectrum
    expected = spectrum / (spectrum + REGULARIZER)
    assert spectrum.max() / spectrum.min() > 1000
    np.testing.assert_allclose(left / left.mean(), expected / expected.mean(), atol=0.2)


def correlations(images, side=4):
    """Return the correlation matrix, (C * side**2, C * side**2), of the pixels of patches that cover the images."""
    patches = images.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
    return torch.corrcoef(patches.flatten(0, 2).flatten(1).T)


def test_without_a_regularizer_whitened_pixels_and_channels_are_uncorrelated(monkeypatch):
    monkeypatch.setattr("pretrain.network.whitening.REGULARIZER", 1e-6)
    images = autoregressive(channels=2)
    images[:, 1] = images.mean(dim=1)
    x = Whiten.from_images(images)(images)[:, :, 4:-4, 4:-4]  # away from the reflected edges
    one = torch.eye(32)
    assert (correlations(images) - one).abs().max() > 0.69
    torch.testing.assert_close(correlations(x), one, rtol=0, atol=0.04)


def test_the_matrix_of_the_filter_is_that_of_scipy():
    patches = torch.randn(500, 2, 3, 3, generator=generator(0, "patches"), dtype=torch.float64).cumsum(dim=3)
    both = torch.cat([patches, patches.flip(2, 3)]).flatten(1).numpy()
    covariance = np.cov(both - np.concatenate([[h.mean(axis=0)] * 500 for h in np.split(both, 2)]), rowvar=False)
    covariance *= 999 / 998  # two means were taken off, not one
    ridge = REGULARIZER * np.trace(covariance) / 18 * np.eye(18)
    whole = fractional_matrix_power(covariance + ridge, -0.5)
    np.testing.assert_allclose(zca_kernel(patches).reshape(2, 18), whole[[4, 13]], rtol=1e-9, atol=1e-12)


def test_the_filters_shift_nothing():
    kernel = Whiten.from_images(autoregressive(200, channels=3)).kernel
    torch.testing.assert_close(kernel, kernel.flip(2, 3))


@pytest.mark.parametrize(("side", "wide"), [(1, 1), (3, 1), (4, 3), (8, 5), (16, 9), (24, 9)])
def test_the_filters_are_odd_and_at_most_about_half_as_wide_as_the_images(side, wide):
    images = pictures(side=side)
    whiten = Whiten.from_images(images)
    assert whiten.kernel.shape == (3, 3, wide, wide)
    assert whiten(images).shape == images.shape
    assert Whiten.from_images(images[..., :1]).kernel.shape[-1] == 1


def test_whitened_channels_have_zero_mean_and_unit_variance(digits):
    for images in (digits.unlabelled[:], autoregressive(channels=3)):
        x = Whiten.from_images(images)(images)
        torch.testing.assert_close(x.var(dim=(0, 2, 3)), torch.ones(x.shape[1]), rtol=1e-3, atol=0)
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=0.01)


def test_whitening_is_in_full_precision_under_autocast():
    whiten = Whiten.from_images(autoregressive(100))
    images = autoregressive(10)
    expected = whiten(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whiten(images), expected)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_a_saved_network_is_preprocessed_as_before(tmp_path, name):
    with seeded(0, "stack"):
        stack = Stack([ConvAutoencoder(Layer(3, 4))], pictures(side=16), preprocessing=name)
    before = assemble(stack, ["ant", "bee"], seed=0).eval()
    before.save(tmp_path / "network.safetensors")
    after = ConvNet.load(tmp_path / "network.safetensors")
    assert equal(after.preprocessing.state_dict(), before.preprocessing.state_dict())
    assert torch.equal(after(pictures(side=16)), before(pictures(side=16)))


def test_the_layer_table_counts_the_whitening_as_torch_does():
    whiten = Whiten.from_images(pictures(side=16))
    (row,) = layer_rows({}, (3, 16, 16), preprocessing="whiten")
    with FlopCounterMode(display=False) as counter:
        whiten(pictures(1, side=16))
    assert (row.kind, row.shape, row.parameters) == ("whiten 9x9", (3, 16, 16), 0)
    assert 2 * row.multiply_adds == counter.get_total_flops()


def test_an_unknown_preprocessing_is_refused():
    with pytest.raises(UserError, match="choose one of standardize, whiten, contrast_standardize"):
        Stack([ConvAutoencoder(Layer(3, 4))], pictures(), preprocessing="bleach")
