"""Losses of two views of each image."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of telling an image's other view from all views in the batch, a scalar.

    For views i and j of an image it is ``-log (exp(cos(z_i, z_j) / t) / sum over k != i of exp(cos(z_i, z_k) / t))``.

    Parameters
    ----------
    first, second : Tensor, (N, D)
        Projections of two views of each image.
    temperature : float
        t.

    References
    ----------
    Chen, Kornblith, Norouzi and Hinton (2020), A simple framework for contrastive learning of visual representations,
    ICML, equation 1.
    """
    n = len(first)
    z = F.normalize(torch.cat([first, second]), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    other = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarity, other)


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    """Return ``25 s + 25 v + c``, a scalar: views agree, features vary, and they are uncorrelated.

    s is the mean squared difference of two views. v is the mean shortfall of a feature's standard deviation from 1,
    over both views. c is the sum of the squared covariances of features over their number, for both views. No image is
    compared with another. As in the authors' code, s is a mean over features as well, and v one over the two views.

    Parameters
    ----------
    first, second : Tensor, (N, D)
        Projections of two views of each image.

    References
    ----------
    Bardes, Ponce and LeCun (2022), VICReg: variance-invariance-covariance regularization for self-supervised learning,
    ICLR, equations 1 to 6.
    """
    invariance = F.mse_loss(first, second)
    variance, covariance = first.new_zeros(()), first.new_zeros(())
    for z in (first, second):
        variance = variance + F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean() / 2
        off_diagonal = torch.cov(z.T).fill_diagonal_(0)
        covariance = covariance + off_diagonal.square().sum() / z.shape[1]
    return 25 * invariance + 25 * variance + covariance
