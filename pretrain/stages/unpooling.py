"""Max-pooling with switches, and unpooling by them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.network.max_pooling import maxima


def max_pool_with_switches(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the maxima of windows of `size` x `size`, (N, C, H/size, W/size), and their positions.

    References
    ----------
    Zeiler and Fergus (2014), Visualizing and understanding convolutional networks, section 2.1.
    """
    return F.max_pool2d(x, size, return_indices=True)


def unpool_with_switches(pooled: Tensor, switches: Tensor, size: int) -> Tensor:
    """Put each maximum back where `switches` says it was, with zeros elsewhere: (N, C, H, W).

    References
    ----------
    Zeiler and Fergus (2014), Visualizing and understanding convolutional networks, section 2.1.
    """
    return F.max_unpool2d(pooled, switches, [size, size])


def keep_maxima(h: Tensor, size: int) -> Tensor:
    """Return `h` after max-pooling and unpooling by switches: all but the greatest of each window is zero.

    The computation keeps the memory format of `h`, (N, C, H, W). Activations that are equally great all stay.

    References
    ----------
    Zeiler and Fergus (2014), Visualizing and understanding convolutional networks, section 2.1.
    """
    return _KeepMaxima.apply(h, size)


class _KeepMaxima(torch.autograd.Function):
    """Zero all but the maxima, and their gradients; real numbers say which these are, since boolean ones are slow."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, size: int) -> Tensor:
        below = h - F.interpolate(maxima(h, size), scale_factor=size)  # 0 at a maximum
        ctx.save_for_backward(below)
        return _where_not_below(h, below)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _where_not_below(gradient, *ctx.saved_tensors), None


def _where_not_below(x: Tensor, below: Tensor) -> Tensor:
    """Return `x` where `below` is 0, and 0 where it is less."""
    # The gradient of a rectifier is this choice, in one pass.
    return torch.ops.aten.threshold_backward(x, below, -torch.finfo(below.dtype).tiny)
