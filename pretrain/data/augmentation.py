"""Random crops, flips and mixtures of whole batches."""

import numpy as np
import torch
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels both ways, its edges filled by reflection.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), any type
        Not changed.
    padding : int
        Greatest shift in pixels, less than a side of the images; 0 returns the images.
    generator : torch.Generator
        On the CPU.
    """
    if padding == 0:
        return images
    n, _, height, width = images.shape
    shift = torch.randint(-padding, padding + 1, (2, n, 1), generator=generator).to(images.device)
    rows = _reflect(shift[0] + torch.arange(height, device=images.device), height)  # (N, H)
    columns = _reflect(shift[1] + torch.arange(width, device=images.device), width)  # (N, W)
    batch = torch.arange(n, device=images.device)[:, None, None]
    # Channels last: the gather copies whole pixels.
    pixels = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
    return pixels.permute(0, 3, 1, 2)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Return positions from 0 to `size` - 1, those beyond an edge mirrored about the pixel at that edge."""
    last = size - 1
    return last - (last - positions.abs()).abs()


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image, (N, C, H, W), left to right with probability one half. Not changed in place."""
    flip = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def mixup(images: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return ``share x_i + (1 - share) x_j`` for each image x_i, which j each was mixed with, and the share.

    The share is drawn from Beta(alpha, alpha), one for the batch; of it and its complement, the larger is taken, so
    that each image is mostly itself. The loss of a mixture is the mixture of the losses, with the same share.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), floating-point
        Not changed.
    alpha : float
        Above 0: the smaller, the less is mixed.
    generator : torch.Generator
        On the CPU.

    References
    ----------
    Zhang, Cisse, Dauphin and Lopez-Paz (2018), mixup: beyond empirical risk minimization, ICLR, equation 1.
    """
    seed = int(torch.randint(2**62, (), generator=generator))  # torch's Beta takes no generator
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    share = max(share, 1 - share)
    partners = torch.randperm(len(images), generator=generator).to(images.device)
    return torch.lerp(images[partners], images, share), partners, share
