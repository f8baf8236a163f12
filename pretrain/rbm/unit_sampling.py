"""Draws of hidden units given their inputs or means."""

import math

import torch
from torch import Tensor

from pretrain.network.random_bits import sixteen_bits


def sample_rectified(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw noisy rectified linear hidden units, max(0, x + N(0, sigmoid x)), in the shape of `x`.

    The noise is the normal quantile of 16 random bits: 65,536 values within 4.2 standard deviations.

    References
    ----------
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, section 2.
    """
    spread = x.sigmoid().sqrt_()
    noise = sixteen_bits(spread, generator).to(x.dtype).add_(0.5).mul_(2**-15).erfinv_().mul_(math.sqrt(2))
    return spread.mul_(noise).add_(x).relu_()


def sample_bernoulli(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Draw units that are 1 with the probabilities `mean`, in their shape and type.

    Drawing random bits is what takes the time, so a unit gets 16 of them: each probability is met within 2^-17.

    References
    ----------
    Hinton (2010), A practical guide to training restricted Boltzmann machines, equations 7 and 8.
    """
    uniform = sixteen_bits(mean, generator).to(mean.dtype).add_(2**15 + 0.5).mul_(2**-16)  # in (0, 1)
    return uniform.add_(mean).floor_()
