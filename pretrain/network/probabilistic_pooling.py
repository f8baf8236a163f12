"""Probabilistic max-pooling (Lee et al. 2009): at most one unit of a block is on."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.network.max_pooling import maxima
from pretrain.runs.batch_parts import drawn, empty_like_part


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws from [0, 1), float32 at least, of the shape and memory format of `x`."""
    precise = torch.promote_types(x.dtype, torch.float32)
    return drawn(lambda shape: empty_like_part(x, shape, precise).uniform_(generator=generator), x.shape, generator)


def pooled_free_energy(x: Tensor, size: int) -> Tensor:
    """Return what probabilistic max-pooling adds to the free energy, -sum log(1 + sum exp x): (N, K, H, W) -> (N,).

    The inner sum is over a block of `size` x `size` hidden units, of which at most one is on.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, section 3.3.
    """
    on, none, greatest = _block_weights(x, size)
    return -(greatest + (_block_sum(on, size) + none).log()).sum(dim=(1, 2, 3))


def pooled_mean(x: Tensor, size: int) -> Tensor:
    """Return the probability that each unit is on, where at most one of its block may be, in the shape of `x`.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, section 3.3, P(h = 1 | v).
    """
    on, none, _ = _block_weights(x, size)
    return on / _spread(_block_sum(on, size) + none, size)


def pooled_probability(x: Tensor, size: int) -> Tensor:
    """Return the probability that any unit of a block is on: (N, K, H, W) -> (N, K, H/size, W/size).

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, section 3.3, 1 - P(p = 0 | v).
    """
    on, none, _ = _block_weights(x, size)
    total = _block_sum(on, size)
    return total / (total + none)


def sample_pooled(mean: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw hidden units of which at most one in each block is on, in the shape and type of their means.

    One uniform draw decides a block: below the first unit's probability that unit is on, from there to the sum of the
    first two the second one is, and so on.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, section 3.3.
    """
    h = torch.empty_like(mean)
    units = [(..., slice(i, None, size), slice(j, None, size)) for i in range(size) for j in range(size)]
    # A unit is on where the running sum reaches 1. The sum must start below 1, or a unit of probability 0 could be on.
    upper = (1 - uniform_like(mean[units[0]], generator)).clamp_(max=1 - 2**-23)
    passed = torch.zeros_like(upper)
    for unit in units:
        upper += mean[unit]
        reached = upper.floor().clamp_(max=1)
        h[unit] = reached - passed
        passed = reached
    return h


def _block_weights(x: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of a block's states, divided by the greatest of them, so that no exponential overflows.

    Returns
    -------
    Tensor, (N, K, H, W), and Tensor, (N, K, H/size, W/size), twice
        The weight of each unit being on, that of none being on, and the logarithm of the divisor.
    """
    greatest = maxima(x.detach(), size).clamp(min=0)
    return (x - _spread(greatest, size)).exp(), (-greatest).exp(), greatest


def _block_sum(x: Tensor, size: int) -> Tensor:
    """Return the sum of each block: (N, K, H, W) -> (N, K, H/size, W/size)."""
    return F.avg_pool2d(x, size, divisor_override=1)


def _spread(x: Tensor, size: int) -> Tensor:
    """Give each unit of a block the block's value: (N, K, H/size, W/size) -> (N, K, H, W)."""
    return F.interpolate(x, scale_factor=size)


class ProbabilisticMaxPool(nn.MaxPool2d):
    """The probability that any unit of a window is on, given the units' inputs; see `pooled_probability`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return probabilities, (N, K, H/size, W/size), of inputs (N, K, H, W)."""
        # A layer's window is one number, where torch allows two.
        return pooled_probability(x, self.kernel_size)  # type: ignore[arg-type]
