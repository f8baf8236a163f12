"""How images are brought to the first layer: standardised channels, or whitened ones."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor, nn

from pretrain.functional import contrast_normalised, whitening_power
from pretrain.patches import random_patches
from pretrain.seeding import generator

CHUNK = 500  # images in floating point at a time
SIDE = 9  # pixels: on CIFAR-10 the outermost weights are below 1% of the central one
REGULARISER = 0.03  # of the mean eigenvalue: flattens CIFAR-10 but for its highest frequencies, which are noise
PATCHES = 50_000
SAMPLE = 5000  # images that the scale of whitened channels is measured on
FLAT = 1e-3  # added to an image's variance where contrast is normalised: what is nearly flat is not blown up
SHOWN = 0.25  # standard deviation of the pixels in pictures of contrast-normalised images


class Standardise(nn.Module):
    """Bring images to zero mean and unit variance in each channel.

    Parameters
    ----------
    mean, std : Tensor, (C,)
        Of pixels from 0 to 1, or of normalised ones; 0 and 1 leave them as they are.
    contrast : bool
        Bring each image to zero mean and unit variance first, over all its pixels and channels (contrast
        normalisation): bright or dark, clear or hazy, no longer matters.

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
        """What `unfitted` makes one of the same kind and shapes from."""
        return {"kind": "standardise", "channels": len(self.mean), "contrast": self.contrast}

    @classmethod
    def from_images(cls, images: Tensor, contrast: bool = False) -> "Standardise":
        """Measure the statistics on images, (N, C, H, W), uint8 or floating-point in [0, 1]."""
        return cls(*_spread(_pixels(chunk, contrast) for chunk in images.split(CHUNK)), contrast)

    @classmethod
    def identity(cls, channels: int, *, contrast: bool = False) -> "Standardise":
        """Return the one that leaves pixels as they are, in [0, 1], but for their contrast."""
        return cls(torch.zeros(channels), torch.ones(channels), contrast)

    def forward(self, images: Tensor) -> Tensor:
        """Return standardised images, floating-point, of the same shape (N, C, H, W)."""
        return (_pixels(images, self.contrast) - self.mean[:, None, None]) / self.std[:, None, None]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value that each channel can take, (C,) twice: those of black and white.

        Infinite, of images whose contrast is normalised.
        """
        low, high = (-torch.inf, torch.inf) if self.contrast else (0.0, 1.0)
        return (low - self.mean) / self.std, (high - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Return pixels in [0, 1] from standardised ones, clipped to that range; of some contrast, where it is lost."""
        pixels = x * self.std[:, None, None] + self.mean[:, None, None]
        return (0.5 + SHOWN * pixels if self.contrast else pixels).clamp(0, 1)


class Whiten(Standardise):
    """Standardise the channels, then take out what neighbouring pixels tell of each other: ZCA as one convolution.

    Parameters
    ----------
    mean, std, contrast
        Those of `Standardise`.
    kernel : Tensor, (C, C, S, S)
        The whitening filter of each channel; S is odd.

    Notes
    -----
    Of all matrices W that whiten patches p, W cov(p) W' = 1, the symmetric one, cov(p)^(-1/2), changes them least
    (zero-phase components). The rows that belong to a patch's central pixel are filters with which the whole image
    is convolved, its edges reflected. Computed in float32, whatever the precision of the layers above: a whitened
    pixel is a small difference of large numbers. It stays a fixed layer of assembled networks: as a part of the first
    convolution, whose 5x5 filters would be 13x13 then, it would be trained away, and could not reflect the edges.

    References
    ----------
    Bell and Sejnowski (1997), The independent components of natural scenes are edge filters, Vision Research 37;
    Krizhevsky (2009), Learning multiple layers of features from tiny images, appendix A, for colour;
    Coates, Ng and Lee (2011), An analysis of single-layer networks in unsupervised feature learning, section 3.1.
    """

    kernel: Tensor

    def __init__(self, mean: Tensor, std: Tensor, kernel: Tensor, contrast: bool = False):
        super().__init__(mean, std, contrast)
        self.register_buffer("kernel", kernel.float())

    @property
    def settings(self) -> dict[str, Any]:
        """What `unfitted` makes one of the same kind and shapes from."""
        return {**super().settings, "kind": "whiten", "side": self.kernel.shape[-1]}

    @classmethod
    def from_images(cls, images: Tensor, contrast: bool = False) -> "Whiten":
        """Fit the filters to random patches of images, (N, C, H, W), uint8 or floating-point in [0, 1].

        They are `SIDE` pixels wide, or about half as wide as the images where that is less, and scaled so that each
        channel of the whitened images has unit variance.
        """
        standardise = Standardise.from_images(images, contrast)
        side = min(SIDE, min(images.shape[2:]) // 2 | 1)
        sample = torch.randperm(len(images), generator=generator(0, "whiten", "scale"))[:SAMPLE]
        whole = _pixels(images[sample], contrast) if contrast else images  # contrast is that of whole images
        patches = random_patches(whole, side, PATCHES, generator(0, "whiten", "patches"))
        kernel = zca_kernel(Standardise(standardise.mean, standardise.std)(patches))
        whiten = cls(standardise.mean, standardise.std, kernel, contrast)
        _, std = _spread(whiten(images[chunk]) for chunk in sample.split(CHUNK))
        return cls(standardise.mean, standardise.std, kernel / std[:, None, None, None], contrast)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """None: minus infinity and infinity for each channel, (C,) twice."""
        return torch.full_like(self.mean, -torch.inf), torch.full_like(self.mean, torch.inf)

    @classmethod
    def identity(cls, channels: int, side: int = 1, *, contrast: bool = False) -> "Whiten":
        """Return the one that leaves pixels as they are, in [0, 1], but for their contrast."""
        kernel = torch.zeros(channels, channels, side, side)
        kernel[:, :, side // 2, side // 2] = torch.eye(channels)
        return cls(torch.zeros(channels), torch.ones(channels), kernel, contrast)

    def forward(self, images: Tensor) -> Tensor:
        """Return whitened images, floating-point, of the same shape (N, C, H, W)."""
        with torch.autocast(images.device.type, enabled=False):
            x = super().forward(images)
            return _filter(x, self.kernel.to(x.dtype))

    def inverse(self, x: Tensor) -> Tensor:
        """Return pixels in [0, 1] from whitened ones, clipped to that range: of a few images, such as for pictures.

        The linear system of each image is solved by GMRES (Saad and Schultz 1986), in float64 on the CPU.
        """
        kernel = self.kernel.double().cpu()

        def solve(image: Tensor) -> Tensor:
            def matvec(flat: np.ndarray) -> np.ndarray:
                return _filter(torch.from_numpy(flat).view(1, *image.shape), kernel).numpy().ravel()

            operator = LinearOperator((image.numel(), image.numel()), matvec=matvec, dtype=np.float64)
            solution, _ = gmres(operator, image.numpy().ravel(), rtol=1e-6, restart=50)
            return torch.from_numpy(solution).view_as(image)

        standardised = torch.stack([solve(image) for image in x.double().cpu()])
        return super().inverse(standardised.to(x))


# By the name in the configuration: fitted to unlabelled images, (N, C, H, W).
PREPROCESSINGS: dict[str, Callable[[Tensor], Standardise]] = {
    "standardise": Standardise.from_images,
    "whiten": Whiten.from_images,
    "contrast_standardise": partial(Standardise.from_images, contrast=True),
    "contrast_whiten": partial(Whiten.from_images, contrast=True),
    "none": lambda images: Standardise.identity(images.shape[1]),
}


def unfitted(kind: str, **settings: Any) -> Standardise:
    """Return a preprocessing that leaves pixels as they are, and that the state of a fitted one can be loaded into."""
    kinds: dict[str, type[Standardise]] = {"standardise": Standardise, "whiten": Whiten}
    return kinds[kind].identity(**settings)


def zca_kernel(patches: Tensor) -> Tensor:
    """Return the whitening filters, (C, C, S, S), float64, of patches (N, C, S, S), S odd.

    ``W = U (L + r mean(L))^(-1/2) U'``, of the covariance U L U', where r is `REGULARISER`; of it, the rows of the
    central pixel. A patch and the same patch turned by 180 degrees count as equally likely, as they are for any
    stationary image of one channel: the filters are point-symmetric and shift nothing.

    References
    ----------
    Those of `Whiten`.
    """
    _, channels, side, _ = patches.shape
    pixels, size = side**2, channels * side**2
    covariance = torch.cov(patches.double().flatten(1).T).view(channels, pixels, channels, pixels)
    covariance = (covariance + covariance.flip(1, 3)).view(size, size) / 2
    whitening = whitening_power(covariance, REGULARISER, -0.5)
    return whitening.view(channels, pixels, channels, side, side)[:, pixels // 2]


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate images, (N, C, H, W), with filters of an odd side; reflected edges keep the size and show no frame."""
    return F.conv2d(F.pad(x, [kernel.shape[-1] // 2] * 4, mode="reflect"), kernel)


def channel_moments(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel, (C,), float64 on the CPU, over chunks of maps, (n, C, H, W)."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for chunk in chunks:
        values = chunk.cpu().double()
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + values.square().sum(dim=(0, 2, 3))
        count += values[:, 0].numel()
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)


def _spread(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (C,), 1 of one that is constant: it is not blown up."""
    mean, variance = channel_moments(chunks)
    return mean, torch.where(variance > 1e-6, variance, 1.0).sqrt()


def _pixels(images: Tensor, contrast: bool) -> Tensor:
    """Return pixels from 0 to 1, or those of images of zero mean and unit variance each, (N, C, H, W)."""
    x = unit_range(images)
    return contrast_normalised(x.flatten(1), FLAT).view_as(x) if contrast else x


def unit_range(images: Tensor) -> Tensor:
    """Return floating-point pixels in [0, 1] of bytes; floating-point ones are taken to be so already."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
