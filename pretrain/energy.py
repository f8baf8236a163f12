"""Equations of restricted Boltzmann machines: energies, free energies, conditionals, and draws from them.

The hidden layer receives ``x(v) = W * v + b``, a convolution, and the visible layer ``W~ * h``, its transpose. The
energy of a state is

    E(v, h) = visible_energy(v) - sum over hidden units of h x(v)

so that the hidden units (or, pooled, blocks of them) are independent given `v`, and the free energy
``F(v) = -log sum_h exp(-E(v, h))`` is the visible energy plus a term that depends on `x` alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# B_2n / (2n + 1)!, with Bernoulli's numbers; the terms left out are below 1e-14.
BERNOULLI_SERIES = (1, 1 / 36, -1 / 3600, 1 / 211680, -1 / 10886400, 1 / 526901760, -691 / 16999766784000)


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws from [0, 1), float32 at least, of the shape and memory format of `x`."""
    precise = torch.promote_types(x.dtype, torch.float32)
    return torch.empty_like(x, dtype=precise).uniform_(generator=generator)


def gaussian_energy(v: Tensor, bias: Tensor, log_variance: Tensor) -> Tensor:
    """Return the energy of Gaussian visible units, sum (v - c)^2 / (2 sigma^2): (N, C, H, W) -> (N,).

    Parameters
    ----------
    v : Tensor, (N, C, H, W)
        Real-valued visible units.
    bias, log_variance : Tensor, (C,)
        c, and the logarithm of sigma^2.

    References
    ----------
    Cho, Ilin and Raiko (2011), Improved learning of Gaussian-Bernoulli RBMs, equation 4, whose z is `log_variance`;
    here the filters are those that the hidden units see, W / sigma^2 in its notation.
    """
    deviation = (v - bias[:, None, None]).square() * (-log_variance).exp()[:, None, None]
    return 0.5 * deviation.sum(dim=(1, 2, 3))


def bernoulli_energy(v: Tensor, bias: Tensor) -> Tensor:
    """Return the energy of Bernoulli visible units, -sum c v: (N, C, H, W) -> (N,).

    References
    ----------
    Hinton (2010), A practical guide to training restricted Boltzmann machines, equation 1.
    """
    return -(v * bias[:, None, None]).sum(dim=(1, 2, 3))


def bernoulli_free_energy(x: Tensor) -> Tensor:
    """Return the part of Bernoulli hidden units in the free energy, -sum log(1 + exp x): (N, K, H, W) -> (N,).

    References
    ----------
    Hinton (2010), A practical guide to training restricted Boltzmann machines, equation 25.
    """
    return -rectified_mean(x).sum(dim=(1, 2, 3))


def rectified_free_energy(x: Tensor) -> Tensor:
    """Return the part of noisy rectified linear hidden units in the free energy: (N, K, H, W) -> (N,).

    Each stands for a row of Bernoulli copies with the inputs x - 1/2, x - 3/2, ...; the sum over them is taken for an
    integral, whose derivative is softplus(x), the unit's mean: the dilogarithm Li2(-exp x).

    References
    ----------
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, section 2.1.
    """
    # Li2(z) + Li2(1/z) = -pi^2 / 6 - log(-z)^2 / 2, so that the series is needed below zero alone.
    near = _dilogarithm(-x.abs())
    return torch.where(x > 0, -(math.pi**2) / 6 - 0.5 * x.square() - near, near).sum(dim=(1, 2, 3))


def _dilogarithm(x: Tensor) -> Tensor:
    """Return Li2(-exp x) of x <= 0, as the sum of B_n u^(n + 1) / (n + 1)! with u = -log(1 + exp x)."""
    u = -F.softplus(x)
    odd = torch.zeros_like(u)
    for coefficient in reversed(BERNOULLI_SERIES):
        odd = coefficient + u.square() * odd
    return u * odd - 0.25 * u.square()


def rectified_mean(x: Tensor) -> Tensor:
    """Return log(1 + exp x), the mean of noisy rectified linear units, of the shape of `x`; to 1e-7.

    Written so, it takes a sixth of the time of torch's `softplus`, whose logarithm is exact near 1.

    References
    ----------
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, section 2.1.
    """
    if x.requires_grad:  # the parts have no slope of their own at zero
        return F.softplus(x)
    return x.abs().neg_().exp_().add_(1).log_().add_(x.relu())


def sample_rectified(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw max(0, x + N(0, sigmoid x)), noisy rectified linear hidden units, of the shape of `x`.

    The noise is the normal quantile of 16 random bits: 65,536 values within 4.2 standard deviations.

    References
    ----------
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, section 2.
    """
    spread = x.sigmoid().sqrt_()
    noise = _sixteen_bits(spread, generator).to(x.dtype).add_(0.5).mul_(2**-15).erfinv_().mul_(math.sqrt(2))
    return spread.mul_(noise).add_(x).relu_()


def sample_bernoulli(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Draw units that are 1 with the probabilities `mean`, of their shape and type.

    A unit costs 16 random bits, since drawing them is what takes the time: each probability is met within 2^-17.

    References
    ----------
    Hinton (2010), A practical guide to training restricted Boltzmann machines, equations 7 and 8.
    """
    uniform = _sixteen_bits(mean, generator).to(mean.dtype).add_(2**15 + 0.5).mul_(2**-16)  # in (0, 1)
    return uniform.add_(mean).floor_()


def _sixteen_bits(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return whole numbers from [-2^15, 2^15), int16, of the shape and memory format of a tensor."""
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)
    return bits[: like.numel()].as_strided(like.shape, torch.empty_like(like, device="meta").stride())


def pooled_free_energy(x: Tensor, size: int) -> Tensor:
    """Return the part of probabilistic max-pooling in the free energy, -sum log(1 + sum exp x): (N, K, H, W) -> (N,).

    The inner sum is over a block of `size` x `size` hidden units, of which one at most is on.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, section 3.3.
    """
    on, none, greatest = _block_weights(x, size)
    return -(greatest + (_block_sum(on, size) + none).log()).sum(dim=(1, 2, 3))


def pooled_mean(x: Tensor, size: int) -> Tensor:
    """Return the probability that each unit is on, where one at most of its block may be: the shape of `x`.

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
    """Draw hidden units of which one at most in each block is on, of the shape and type of their means.

    The first unit is on up to its probability, the second from there up to the sum of the two, and so on.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, section 3.3.
    """
    h = torch.empty_like(mean)
    units = [(..., slice(i, None, size), slice(j, None, size)) for i in range(size) for j in range(size)]
    # Where the sum reaches 1, a unit so far is on; were it to start there, one without probability could be.
    upper = (1 - uniform_like(mean[units[0]], generator)).clamp_(max=1 - 2**-23)
    passed = torch.zeros_like(upper)
    for unit in units:
        upper += mean[unit]
        reached = upper.floor().clamp_(max=1)
        h[unit] = reached - passed
        passed = reached
    return h


def _block_weights(x: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return exp of each unit's input, and of the zero of the state in which none is on, over the greatest of a block.

    The last, in logarithms, is what no exponential overflows by: (N, K, H, W), and twice (N, K, H/size, W/size).
    """
    greatest = F.max_pool2d(x.detach(), size).clamp(min=0)
    return (x - _spread(greatest, size)).exp(), (-greatest).exp(), greatest


def _block_sum(x: Tensor, size: int) -> Tensor:
    """Return the sum of each block: (N, K, H, W) -> (N, K, H/size, W/size)."""
    return F.avg_pool2d(x, size, divisor_override=1)


def _spread(x: Tensor, size: int) -> Tensor:
    """Give each unit of a block the block's value: (N, K, H/size, W/size) -> (N, K, H, W)."""
    return F.interpolate(x, scale_factor=size)
