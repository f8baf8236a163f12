"""Sparsity of an autoencoder's activations: penalties, and winner-take-all."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.runs.batch_parts import WHOLE, BatchPart


def spatial_winner_take_all(h: Tensor) -> Tensor:
    """Keep the greatest activation of each map of each image, (N, C, H, W), and set the others to zero.

    Among equals, which are common in half precision, the first is kept.

    References
    ----------
    Makhzani and Frey (2015), Winner-take-all autoencoders, section 3.
    """
    size = h.shape[2:]
    return F.max_unpool2d(*F.max_pool2d(h, size, return_indices=True), size)


def lifetime_winner_take_all(h: Tensor, share: float, part: BatchPart = WHOLE) -> Tensor:
    """Keep, for each map, the images of the batch with the strongest peaks: a `share` in (0, 1], at least one.

    The authors apply it after `spatial_winner_take_all`. The shape is (N, C, H, W) in and out, of a part of the batch.

    References
    ----------
    Makhzani and Frey (2015), Winner-take-all autoencoders, section 3.
    """
    peaks = part.gather(h.detach().amax(dim=(2, 3)))  # (N, C)
    winners = max(1, round(share * len(peaks)))
    won = torch.zeros_like(peaks).scatter(0, peaks.topk(winners, dim=0).indices, 1)
    return h * part.take(won)[:, :, None, None]


def l1_penalty(h: Tensor) -> Tensor:
    """Return the mean absolute activation, a scalar.

    References
    ----------
    Olshausen and Field (1996), Emergence of simple-cell receptive field properties, Nature 381, equation 4.
    """
    return h.abs().mean()


def kl_penalty(h: Tensor, target: float, part: BatchPart = WHOLE) -> Tensor:
    """Return the mean over maps of KL(target || mean activation), for activations in (0, 1); a scalar.

    The mean is that of the whole batch, of which `h` may be a part.

    References
    ----------
    Lee, Ekanadham and Ng (2008), Sparse deep belief net model for visual area V2, section 3, for the target;
    Hinton (2010), A practical guide to training RBMs, section 11, for the cross-entropy form.
    """
    precise = torch.promote_types(h.dtype, torch.float32)
    mean = part.mean(h.mean(dim=(0, 2, 3), dtype=precise)).clamp(1e-6, 1 - 1e-6)  # (C,)
    goal = torch.full_like(mean, target)
    divergence = goal * (goal / mean).log() + (1 - goal) * ((1 - goal) / (1 - mean)).log()
    return divergence.mean()
