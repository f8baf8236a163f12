"""How images are brought to the first layer: standardised channels, or whitened ones."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor, nn

from pretrain.functional import whitening_power
from pretrain.patches import random_patches
from pretrain.seeding import generator

CHUNK = 500  # images in floating point at a time
SIDE = 9  # pixels: on CIFAR-10 the outermost weights are below 1% of the central one
REGULARISER = 0.03  # of the mean eigenvalue: flattens CIFAR-10 but for its highest frequencies, which are noise
PATCHES = 50_000
SAMPLE = 5000  # images that the scale of whitened channels is measured on


class Standardise(nn.Module):
    """Bring images to zero mean and unit variance in each channel.

    Parameters
    ----------
    mean, std : Tensor, (C,)
        Of pixels from 0 to 1; 0 and 1 leave the pixels as they are.

    Notes
    -----
    Bytes (uint8) are divided by 255 first; floating-point pixels are taken to lie in [0, 1] already.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    @property
    def settings(self) -> dict[str, Any]:
        """What `unfitted` makes one of the same kind and shapes from."""
        return {"kind": "standardise", "channels": len(self.mean)}

    @classmethod
    def from_images(cls, images: Tensor) -> "Standardise":
        """Measure the statistics on images, (N, C, H, W), uint8 or floating-point in [0, 1]."""
        return cls(*_moments(_unit_range(chunk) for chunk in images.split(CHUNK)))

    @classmethod
    def identity(cls, channels: int) -> "Standardise":
        """Return the one that leaves pixels as they are, in [0, 1]."""
        return cls(torch.zeros(channels), torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        """Return standardised images, floating-point, of the same shape (N, C, H, W)."""
        return (_unit_range(images) - self.mean[:, None, None]) / self.std[:, None, None]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value that each channel can take, (C,) twice: those of black and white."""
        return -self.mean / self.std, (1 - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Return pixels in [0, 1] from standardised ones, clipped to that range."""
        return (x * self.std[:, None, None] + self.mean[:, None, None]).clamp(0, 1)


class Whiten(Standardise):
    """Standardise the channels, then take out what neighbouring pixels tell of each other: ZCA as one convolution.

    Parameters
    ----------
    mean, std : Tensor, (C,)
        Those of `Standardise`.
    kernel : Tensor, (C, C, S, S)
        The whitening filter of each channel; S is odd.

    Notes
    -----
    Of all matrices W that whiten patches p, W cov(p) W' = 1, the symmetric one, cov(p)^(-1/2), changes them least
    (zero-phase components). The rows that belong to a patch's central pixel are filters with which the whole image
    is convolved, its edges reflected. Computed in float32, whatever the precision of the layers above: a whitened
    pixel is a small difference of large numbers.

    References
    ----------
    Bell and Sejnowski (1997), The independent components of natural scenes are edge filters, Vision Research 37;
    Krizhevsky (2009), Learning multiple layers of features from tiny images, appendix A, for colour;
    Coates, Ng and Lee (2011), An analysis of single-layer networks in unsupervised feature learning, section 3.1.
    """

    kernel: Tensor

    def __init__(self, mean: Tensor, std: Tensor, kernel: Tensor):
        super().__init__(mean, std)
        self.register_buffer("kernel", kernel.float())

    @property
    def settings(self) -> dict[str, Any]:
        """What `unfitted` makes one of the same kind and shapes from."""
        return {"kind": "whiten", "channels": len(self.mean), "side": self.kernel.shape[-1]}

    @classmethod
    def from_images(cls, images: Tensor) -> "Whiten":
        """Fit the filters to random patches of images, (N, C, H, W), uint8 or floating-point in [0, 1].

        They are `SIDE` pixels wide, or about half as wide as the images where that is less, and scaled so that each
        channel of the whitened images has unit variance.
        """
        standardise = Standardise.from_images(images)
        side = min(SIDE, min(images.shape[2:]) // 2 | 1)
        patches = random_patches(images, side, PATCHES, generator(0, "whiten", "patches"))
        kernel = zca_kernel(standardise(patches))
        whiten = cls(standardise.mean, standardise.std, kernel)
        sample = torch.randperm(len(images), generator=generator(0, "whiten", "scale"))[:SAMPLE]
        _, std = _moments(whiten(images[chunk]) for chunk in sample.split(CHUNK))
        return cls(standardise.mean, standardise.std, kernel / std[:, None, None, None])

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """None: minus infinity and infinity for each channel, (C,) twice."""
        return torch.full_like(self.mean, -torch.inf), torch.full_like(self.mean, torch.inf)

    @classmethod
    def identity(cls, channels: int, side: int = 1) -> "Whiten":
        """Return the one that leaves pixels as they are, in [0, 1]."""
        kernel = torch.zeros(channels, channels, side, side)
        kernel[:, :, side // 2, side // 2] = torch.eye(channels)
        return cls(torch.zeros(channels), torch.ones(channels), kernel)

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
    "none": lambda images: Standardise.identity(images.shape[1]),
}


def unfitted(kind: str, **shapes: int) -> Standardise:
    """Return a preprocessing that leaves pixels as they are, and that the state of a fitted one can be loaded into."""
    kinds: dict[str, type[Standardise]] = {"standardise": Standardise, "whiten": Whiten}
    return kinds[kind].identity(**shapes)


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


def _moments(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (C,), over images that come in chunks, (n, C, H, W)."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for chunk in chunks:
        pixels = chunk.double()
        total = total + pixels.sum(dim=(0, 2, 3))
        squares = squares + pixels.square().sum(dim=(0, 2, 3))
        count += pixels[:, 0].numel()
    mean = total / count
    variance = squares / count - mean.square()
    return mean, torch.where(variance > 1e-6, variance, 1.0).sqrt()  # what is constant is not blown up


def _unit_range(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
