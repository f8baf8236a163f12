"""Batch normalization over a batch that several processes may share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.runs.batch_parts import BatchPart


def batch_normalized(
    x: Tensor, epsilon: float, part: BatchPart, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return each map of a part of a batch, (N, C, H, W), normalized by its mean and variance over the whole batch.

    Torch's own normalization over several processes computes on GPUs alone.

    Parameters
    ----------
    x : Tensor, (N, C, H, W)
        The part.
    epsilon : float
        Added to the variance.
    part : BatchPart
        Which part it is.
    weight, bias : Tensor, (C,), optional
        Scale and shift of the normalized maps.

    References
    ----------
    Ioffe and Szegedy (2015), Batch normalization: accelerating deep network training by reducing internal covariate
    shift. ICML.
    """
    if part.count == 1:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=epsilon)
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    variances, means = torch.var_mean(precise, dim=(0, 2, 3), correction=0)  # of the part, (C,)
    means = part.gather(means[None])
    variance = part.mean(variances) + means.var(dim=0, correction=0)
    factor = (variance + epsilon).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - factor * means.mean(dim=0)
    return (precise * factor[:, None, None] + shift[:, None, None]).to(x.dtype)
