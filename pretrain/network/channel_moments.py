"""Mean and variance of each channel, over any number of images."""

from collections.abc import Iterable

import torch
from torch import Tensor


def channel_moments(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel, (C,), float64 on the CPU, over chunks of maps, each (n, C, H, W)."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for chunk in chunks:
        values = chunk.cpu().double()
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + values.square().sum(dim=(0, 2, 3))
        count += values[:, 0].numel()
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)


def channel_spread(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (C,), as `channel_moments` does.

    The standard deviation of a constant channel is returned as 1, so that nothing is divided by zero.
    """
    mean, variance = channel_moments(chunks)
    return mean, torch.where(variance > 1e-6, variance, 1.0).sqrt()
