"""Equations of restricted Boltzmann machines: energies, free energies and conditional means.

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

# The coefficients are B_2n / (2n + 1)!, with Bernoulli's numbers; the terms left out are below 1e-14.
BERNOULLI_SERIES = (1, 1 / 36, -1 / 3600, 1 / 211680, -1 / 10886400, 1 / 526901760, -691 / 16999766784000)


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
    its W / sigma^2 are the filters here, as the hidden units see them.
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
    """Return what Bernoulli hidden units add to the free energy, -sum log(1 + exp x): (N, K, H, W) -> (N,).

    References
    ----------
    Hinton (2010), A practical guide to training restricted Boltzmann machines, equation 25.
    """
    return -rectified_mean(x).sum(dim=(1, 2, 3))


def rectified_free_energy(x: Tensor) -> Tensor:
    """Return what noisy rectified linear hidden units add to the free energy: (N, K, H, W) -> (N,).

    Each unit stands for a row of Bernoulli copies with the inputs x - 1/2, x - 3/2, .... The sum over them is
    approximated by an integral, the dilogarithm Li2(-exp x); minus its derivative is softplus(x), the unit's mean.

    References
    ----------
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, section 2.1.
    """
    # Li2(z) + Li2(1/z) = -pi^2 / 6 - log(-z)^2 / 2, so the series is needed only below zero.
    near = _dilogarithm(-x.abs())
    return torch.where(x > 0, -(math.pi**2) / 6 - 0.5 * x.square() - near, near).sum(dim=(1, 2, 3))


def _dilogarithm(x: Tensor) -> Tensor:
    """Return Li2(-exp x) for x <= 0, as the sum of B_n u^(n + 1) / (n + 1)! with u = -log(1 + exp x)."""
    u = -F.softplus(x)
    odd = torch.zeros_like(u)
    for coefficient in reversed(BERNOULLI_SERIES):
        odd = coefficient + u.square() * odd
    return u * odd - 0.25 * u.square()


def rectified_mean(x: Tensor) -> Tensor:
    """Return log(1 + exp x), the mean of noisy rectified linear units, in the shape of `x`, within 1e-7.

    It takes a sixth of the time of torch's `softplus`, whose logarithm is exact near 1.

    References
    ----------
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines, section 2.1.
    """
    if x.requires_grad:
        # The parts below have no slope at zero.
        return F.softplus(x)
    return x.abs().neg_().exp_().add_(1).log_().add_(x.relu())
