"""Draws of hidden units given their inputs or means."""

import math

import torch
from torch import Tensor

from pretrain.runs.batch_parts import part_of


def sample_rectified(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw noisy rectified linear hidden units, max(0, x + N(0, sigmoid x)), in the shape of `x`.

    The noise is the normal quantile of 16 random bits: 65,536 values within 4.2 standard deviations.

    References
    ----------
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, section 2.
    """
    spread = x.sigmoid().sqrt_()
    noise = _sixteen_bits(spread, generator).to(x.dtype).add_(0.5).mul_(2**-15).erfinv_().mul_(math.sqrt(2))
    return spread.mul_(noise).add_(x).relu_()


def sample_bernoulli(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Draw units that are 1 with the probabilities `mean`, in their shape and type.

    Drawing random bits is what takes the time, so a unit gets 16 of them: each probability is met within 2^-17.

    References
    ----------
    Hinton (2010), A practical guide to training restricted Boltzmann machines, equations 7 and 8.
    """
    uniform = _sixteen_bits(mean, generator).to(mean.dtype).add_(2**15 + 0.5).mul_(2**-16)  # in (0, 1)
    return uniform.add_(mean).floor_()


def _sixteen_bits(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return whole numbers from [-2^15, 2^15), int16, in the shape and memory format of a tensor."""
    part = part_of(generator)
    words = torch.empty(-(-part.count * like.numel() // 4), dtype=torch.int64, device=like.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: part.count * like.numel()]
    offset = part.take(bits).storage_offset()
    return bits.as_strided(like.shape, torch.empty_like(like, device="meta").stride(), offset)
