"""How images are brought to the first layer: standardized channels, or whitened ones."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pretrain.network.channel_moments import channel_spread
from pretrain.runs.seeding import generator

PIXEL_BATCH = 500  # images in floating point at a time, and fewer of those that are larger than these
SMALL = 32 * 32  # pixels
MEASURED = 100_000 * SMALL  # pixels that the mean and the standard deviation of the channels are measured on
# This is added to an image's variance where contrast is normalized: what is nearly flat is not blown up.
LEAST_CONTRAST = 1e-3
PICTURE_CONTRAST = 0.25  # standard deviation of the pixels in pictures of contrast-normalized images


class Images(Protocol):
    """Images, (N, C, H, W), uint8 or in [0, 1]: a tensor, or an object that reads those that are asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """The shape of all images, (N, C, H, W)."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, key: Any) -> Tensor:
        """Return the images at positions, (n,), or of a slice: (n, C, H, W)."""

    def split(self, size: int) -> Iterable[Tensor]:
        """Yield the images in chunks of a size; the last may be smaller."""


class Standardize(nn.Module):
    """Bring images to zero mean and unit variance in each channel.

    Parameters
    ----------
    mean, std : Tensor, (C,)
        Mean and standard deviation of pixels from 0 to 1, or of contrast-normalized ones; 0 and 1 leave them as they
        are.
    contrast : bool
        Bring each image to zero mean and unit variance first, over all its pixels and channels (contrast
        normalization): bright or dark, clear or hazy, no longer matters.

    Notes
    -----
    Bytes (uint8) are divided by 255 first; floating-point pixels are taken to lie in [0, 1] already.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, contrast: bool = False):
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())
        self.contrast = contrast

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments from which `unfitted` makes one of the same kind and shapes."""
        return {"kind": "standardize", "channels": len(self.mean), "contrast": self.contrast}

    @classmethod
    def from_images(cls, images: Images, contrast: bool = False) -> "Standardize":
        """Measure the statistics on images, (N, C, H, W), uint8 or floating-point in [0, 1].

        Of images with more than `MEASURED` pixels in all, some are drawn at random.
        """
        count, chunk = max(1, MEASURED // pixels_of(images)), images_at_once(images)
        if len(images) > count:
            drawn = torch.randperm(len(images), generator=generator(0, "standardize"))[:count].sort().values
            chunks: Iterable[Tensor] = (images[some] for some in drawn.split(chunk))
        else:
            chunks = images.split(chunk)
        return cls(*channel_spread(image_pixels(each, contrast) for each in chunks), contrast)

    @classmethod
    def identity(cls, channels: int, *, contrast: bool = False) -> "Standardize":
        """Return the one that leaves pixels as they are, in [0, 1], but for their contrast."""
        return cls(torch.zeros(channels), torch.ones(channels), contrast)

    def forward(self, images: Tensor) -> Tensor:
        """Return standardized images, floating-point, of the same shape (N, C, H, W)."""
        return (image_pixels(images, self.contrast) - self.mean[:, None, None]) / self.std[:, None, None]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value that each channel can take, (C,) twice: those of black and white.

        They are infinite where contrast is normalized.
        """
        low, high = (-torch.inf, torch.inf) if self.contrast else (0.0, 1.0)
        return (low - self.mean) / self.std, (high - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Return pixels in [0, 1] from standardized ones, clipped to that range.

        Where contrast is normalized, that of the image is lost: its pixels get a standard deviation of
        `PICTURE_CONTRAST`.
        """
        pixels = x * self.std[:, None, None] + self.mean[:, None, None]
        return (0.5 + PICTURE_CONTRAST * pixels if self.contrast else pixels).clamp(0, 1)


def pixels_of(images: Images) -> int:
    """Return the number of pixels of one of the images, (N, C, H, W)."""
    return images.shape[2] * images.shape[3]


def images_at_once(images: Images) -> int:
    """Return how many images are brought to floating point at a time."""
    return max(1, min(PIXEL_BATCH, PIXEL_BATCH * SMALL // pixels_of(images)))


def image_pixels(images: Tensor, contrast: bool) -> Tensor:
    """Return pixels from 0 to 1, (N, C, H, W); with `contrast`, each image has zero mean and unit variance instead."""
    x = unit_range(images)
    return contrast_normalized(x.flatten(1), LEAST_CONTRAST).view_as(x) if contrast else x


def unit_range(images: Tensor) -> Tensor:
    """Return bytes as floating-point pixels in [0, 1]; floating-point ones are taken to lie there already."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def contrast_normalized(patches: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return patches, (N, D), each minus its mean and divided by sqrt(its variance + epsilon).

    References
    ----------
    Coates and Ng (2012), Learning feature representations with k-means.
    """
    centered = patches - patches.mean(dim=1, keepdim=True)
    return centered / (centered.square().mean(dim=1, keepdim=True) + epsilon).sqrt()
