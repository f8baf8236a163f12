"""Random corruption of an autoencoder's input."""

import torch
from torch import Tensor, nn

from pretrain.runs.batch_parts import drawn, part_of


def gaussian_noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Return x + level * N(0, 1): `level` is a standard deviation, in the units of `x`.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, section 3.3.
    """
    noise = drawn(
        lambda shape: torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype), x.shape, generator
    )
    return x + level * noise


def masking_noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Return `x` with a share `level` in [0, 1] of its elements, chosen at random, set to zero.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, section 3.3.
    """
    return x * (_uniform(x, generator) >= level)


def salt_and_pepper_noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Return `x` with a share `level` in [0, 1] of its elements set to the batch's least or greatest value.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, section 3.3.
    """
    draw, part = _uniform(x, generator), part_of(generator)
    x = torch.where(draw < level / 2, part.gather(x.amin()[None]).amin(), x)
    return torch.where(draw >= 1 - level / 2, part.gather(x.amax()[None]).amax(), x)


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws from [0, 1) in the shape of `x`, (N, C, H, W)."""
    return drawn(lambda shape: torch.rand(shape, generator=generator, device=x.device), x.shape, generator)


CORRUPTIONS = {
    "none": None,
    "gaussian": gaussian_noise,
    "masking": masking_noise,
    "salt_and_pepper": salt_and_pepper_noise,
}


class Corruption(nn.Module):
    """Random corruption of the input while training; like dropout, it does nothing in eval mode.

    Parameters
    ----------
    kind : {"none", "gaussian", "masking", "salt_and_pepper"}
        The noise: one of the functions of this file, or none.
    level : float
        The noise's standard deviation ("gaussian"), or the share of elements changed, 0 to 1.
    """

    def __init__(self, kind: str, level: float):
        super().__init__()
        self.kind, self.level = kind, level

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return `x` corrupted, of the same shape."""
        noise = CORRUPTIONS[self.kind]
        return noise(x, self.level, generator) if noise and self.training else x

    def extra_repr(self) -> str:
        """Name the noise, for printing."""
        return f"{self.kind}, level={self.level}"
