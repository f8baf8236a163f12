"""Whitening of images by one convolution, fitted to their patches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor

from pretrain.network.channel_moments import channel_spread
from pretrain.network.patches import random_patches_of
from pretrain.network.preprocessing import Images, Standardize, image_pixels, images_at_once
from pretrain.network.shapes import whitening_side
from pretrain.runs.seeding import generator

# This share of the mean eigenvalue is added to each: it flattens the spectrum of CIFAR-10 but for its highest
# frequencies, which are noise.
REGULARIZER = 0.03
FITTED_PATCHES = 50_000
SCALE_SAMPLE = 5000  # images that the scale of whitened channels is measured on


class Whiten(Standardize):
    """Standardize the channels, then decorrelate neighboring pixels: ZCA whitening as one convolution.

    Parameters
    ----------
    mean, std, contrast
        Those of `Standardize`.
    kernel : Tensor, (C, C, S, S)
        The whitening filters, one for each channel; S is odd.

    Notes
    -----
    Many matrices W whiten patches p, W cov(p) W' = 1; the symmetric one, cov(p)^(-1/2), changes them least (zero-phase
    components). The rows that belong to a patch's central pixel are filters with which the whole image is convolved,
    its edges reflected. The convolution is computed in float32, whatever the precision of the layers above: a whitened
    pixel is a small difference of large numbers. It stays a fixed layer of assembled networks: as a part of the first
    convolution, whose 5x5 filters would become 13x13, it would be trained away, and could not reflect the edges.

    References
    ----------
    Bell and Sejnowski (1997), The independent components of natural scenes are edge filters, Vision Research 37;
    Krizhevsky (2009), Learning multiple layers of features from tiny images, appendix A, for color;
    Coates, Ng and Lee (2011), An analysis of single-layer networks in unsupervised feature learning, section 3.1.
    """

    kernel: Tensor

    def __init__(self, mean: Tensor, std: Tensor, kernel: Tensor, contrast: bool = False):
        super().__init__(mean, std, contrast)
        self.register_buffer("kernel", kernel.float())

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments from which `unfitted` makes one of the same kind and shapes."""
        return {**super().settings, "kind": "whiten", "side": self.kernel.shape[-1]}

    @classmethod
    def from_images(cls, images: Images, contrast: bool = False) -> "Whiten":
        """Fit the filters to random patches of images, (N, C, H, W), uint8 or floating-point in [0, 1].

        `whitening_side` says how wide they are. They are scaled so that each channel of the whitened images has unit
        variance.
        """
        standardize = Standardize.from_images(images, contrast)
        side = whitening_side(tuple(images.shape[1:]))
        sample = torch.randperm(len(images), generator=generator(0, "whiten", "scale"))[:SCALE_SAMPLE]
        # The contrast to normalize is that of whole images, not that of patches.
        whole = partial(image_pixels, contrast=True) if contrast else lambda images: images
        patches = random_patches_of(images, side, FITTED_PATCHES, generator(0, "whiten", "patches"), whole)
        kernel = zca_kernel(Standardize(standardize.mean, standardize.std)(patches))
        whiten = cls(standardize.mean, standardize.std, kernel, contrast)
        _, std = channel_spread(whiten(images[chunk]) for chunk in sample.split(images_at_once(images)))
        return cls(standardize.mean, standardize.std, kernel / std[:, None, None, None], contrast)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Minus infinity and infinity for each channel, (C,) twice: whitened pixels have no bounds."""
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
        """Return pixels in [0, 1] from whitened ones, clipped to that range.

        The linear system of each image is solved by GMRES (Saad and Schultz 1986), in float64 on the CPU. That is meant
        for a few images, such as those of pictures.
        """
        kernel = self.kernel.double().cpu()

        def solve(image: Tensor) -> Tensor:
            def matvec(flat: np.ndarray) -> np.ndarray:
                return _filter(torch.from_numpy(flat).view(1, *image.shape), kernel).numpy().ravel()

            operator = LinearOperator((image.numel(), image.numel()), matvec=matvec, dtype=np.float64)
            solution, _ = gmres(operator, image.numpy().ravel(), rtol=1e-6, restart=50)
            return torch.from_numpy(solution).view_as(image)

        standardized = torch.stack([solve(image) for image in x.double().cpu()])
        return super().inverse(standardized.to(x))


# Each function fits a preprocessing to unlabelled images, (N, C, H, W). The names are those of
# `pretrain.network.shapes.PREPROCESSINGS`.
FIT_PREPROCESSING: dict[str, Callable[[Images], Standardize]] = {
    "standardize": Standardize.from_images,
    "whiten": Whiten.from_images,
    "contrast_standardize": partial(Standardize.from_images, contrast=True),
    "contrast_whiten": partial(Whiten.from_images, contrast=True),
    "none": lambda images: Standardize.identity(images.shape[1]),
}


def unfitted(kind: str, **settings: Any) -> Standardize:
    """Return a preprocessing that leaves pixels as they are, and that the state of a fitted one can be loaded into."""
    kinds: dict[str, type[Standardize]] = {"standardize": Standardize, "whiten": Whiten}
    return kinds[kind].identity(**settings)


def zca_kernel(patches: Tensor) -> Tensor:
    """Return the whitening filters, (C, C, S, S), float64, of patches (N, C, S, S), S odd.

    The covariance is U L U', and the whitening matrix ``W = U (L + r mean(L))^(-1/2) U'``, where r is `REGULARIZER`.
    The filters are its rows for the central pixel. A patch and the same patch turned by 180 degrees count as equally
    likely, as they are for any stationary image of one channel: the filters are point-symmetric and shift nothing.

    References
    ----------
    See `Whiten`.
    """
    _, channels, side, _ = patches.shape
    pixels, size = side**2, channels * side**2
    covariance = torch.cov(patches.double().flatten(1).T).view(channels, pixels, channels, pixels)
    covariance = (covariance + covariance.flip(1, 3)).view(size, size) / 2
    whitening = whitening_power(covariance, REGULARIZER, -0.5)
    return whitening.view(channels, pixels, channels, side, side)[:, pixels // 2]


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate images, (N, C, H, W), with filters of an odd side; reflected edges keep the size and show no frame."""
    return F.conv2d(F.pad(x, [kernel.shape[-1] // 2] * 4, mode="reflect"), kernel)


def whitening_power(covariance: Tensor, regularizer: float, power: float) -> Tensor:
    """Return ``U (L + r mean(L))^power U'`` for a covariance U L U', (D, D); power -1/2 gives the ZCA matrix.

    References
    ----------
    Bell and Sejnowski (1997), The independent components of natural scenes are edge filters, Vision Research 37.
    """
    variances, axes = torch.linalg.eigh(covariance)
    # Images may all be of one gray, whose variance is zero.
    floor = regularizer * variances.mean().clamp(min=1e-6)
    return axes * (variances.clamp(min=0) + floor).pow(power) @ axes.T
