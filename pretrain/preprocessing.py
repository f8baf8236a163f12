"""How images are brought to the first layer."""

import torch
from torch import Tensor, nn


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

    @classmethod
    def from_images(cls, images: Tensor) -> "Standardise":
        """Measure the statistics on images, (N, C, H, W), uint8 or floating-point in [0, 1]."""
        total = torch.zeros(images.shape[1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in images.split(4096):
            pixels = _unit_range(chunk).double()
            total += pixels.sum(dim=(0, 2, 3))
            squares += pixels.square().sum(dim=(0, 2, 3))
        count = images.numel() / images.shape[1]
        mean = total / count
        variance = squares / count - mean.square()
        return cls(mean, variance.clamp(min=1e-6).sqrt())

    @classmethod
    def identity(cls, channels: int) -> "Standardise":
        """Return the one that leaves pixels as they are, in [0, 1]."""
        return cls(torch.zeros(channels), torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        """Return standardised images, floating-point, of the same shape (N, C, H, W)."""
        return (_unit_range(images) - self.mean[:, None, None]) / self.std[:, None, None]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """What black and white become in each channel, (C,) twice."""
        return -self.mean / self.std, (1 - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Return pixels in [0, 1] from standardised ones, clipped to that range."""
        return (x * self.std[:, None, None] + self.mean[:, None, None]).clamp(0, 1)


def _unit_range(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
