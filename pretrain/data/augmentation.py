"""Random crops, flips and mixup of batches of images."""

import numpy as np
import torch
from torch import Tensor

from pretrain.runs.batch_parts import drawn


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels in both directions and fill the edges by reflection.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), any type
        Images, left unchanged.
    padding : int
        Greatest shift in pixels, less than a side of the images; 0 returns the images.
    generator : torch.Generator
        Generator on the CPU.
    """
    if padding == 0:
        return images
    n, _, height, width = images.shape
    shift = drawn(
        lambda shape: torch.randint(-padding, padding + 1, shape, generator=generator), (2, n, 1), generator, dim=1
    ).to(images.device)
    rows = _reflect(shift[0] + torch.arange(height, device=images.device), height)  # (N, H)
    columns = _reflect(shift[1] + torch.arange(width, device=images.device), width)  # (N, W)
    batch = torch.arange(n, device=images.device)[:, None, None]
    # With channels last, the gather copies whole pixels.
    pixels = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
    return pixels.permute(0, 3, 1, 2)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirror positions beyond an edge about the pixel at that edge, so that all lie from 0 to `size` - 1."""
    last = size - 1
    return last - (last - positions.abs()).abs()


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image, (N, C, H, W), left to right with probability one half; the input is left unchanged."""
    draw = drawn(lambda shape: torch.rand(shape, generator=generator), (len(images),), generator)
    flip = draw.to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def mixup(images: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return the mixtures ``share x_i + (1 - share) x_j``, the partner j of each image i, and the share.

    One share is drawn for the batch from Beta(alpha, alpha). The larger of the share and its complement is used, so
    that each image is mostly itself. The loss of a mixture is the mixture of the losses, with the same share.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), floating-point
        Images, left unchanged.
    alpha : float
        Parameter of the Beta distribution, above 0; smaller values mix less.
    generator : torch.Generator
        Generator on the CPU.

    References
    ----------
    Zhang, Cisse, Dauphin and Lopez-Paz (2018), mixup: beyond empirical risk minimization, ICLR, equation 1.
    """
    # NumPy draws the share, since torch's Beta takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    share = max(share, 1 - share)
    partners = torch.randperm(len(images), generator=generator).to(images.device)
    return torch.lerp(images[partners], images, share), partners, share
