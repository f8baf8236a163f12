"""Equations only: each a function of tensors, with its source. No state, no modules, no settings."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 4  # channels


def scaled_tanh(x: Tensor) -> Tensor:
    """Return 1.7159 tanh(2x / 3), which has unit gain near the origin for unit-variance inputs.

    References
    ----------
    LeCun, Bottou, Orr and Mueller (1998), Efficient BackProp, section 4.4.
    """
    return 1.7159 * torch.tanh(x * (2 / 3))


def triangle(x: Tensor, power: float = 1.0) -> Tensor:
    """Return max(0, x - mean of x over maps)^power, of inputs (N, C, H, W): maps compete, and about half are silent.

    It can be differentiated once.

    References
    ----------
    Coates, Ng and Lee (2011), An analysis of single-layer networks in unsupervised feature learning, AISTATS, of
    distances; Journe et al. (2023), Hebbian deep learning without feedback, ICLR, with the power.
    """
    return _Triangle.apply(x, power)


class _Triangle(torch.autograd.Function):
    """With a gradient by hand: powers below 1 have an infinite slope at zero, which autograd would make NaN, and what
    it does to avoid that, and to the mean, takes three times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: float) -> Tensor:
        above = (x - x.mean(dim=1, keepdim=True)).relu()
        result = above if power == 1 else above.pow(power).to(x.dtype)  # which autocast makes float32 on a GPU
        ctx.save_for_backward(above, result)
        ctx.power = power
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        above, result = ctx.saved_tensors
        least = 1e-6 if ctx.power < 1 else torch.finfo(above.dtype).tiny  # a bound to slopes that would be infinite
        centred = gradient * (ctx.power * result / above.clamp(min=least))  # silent maps have no gradient
        return centred - centred.mean(dim=1, keepdim=True), None


def contrast_normalised(patches: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return patches, (N, D), each less its mean and over sqrt(its variance + epsilon).

    References
    ----------
    Coates and Ng (2012), Learning feature representations with k-means.
    """
    centred = patches - patches.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + epsilon).sqrt()


def whitening_power(covariance: Tensor, regulariser: float, power: float) -> Tensor:
    """Return ``U (L + r mean(L))^power U'`` of a covariance U L U', (D, D); of power -1/2, the ZCA matrix.

    References
    ----------
    Bell and Sejnowski (1997), The independent components of natural scenes are edge filters, Vision Research 37.
    """
    variances, axes = torch.linalg.eigh(covariance)
    floor = regulariser * variances.mean().clamp(min=1e-6)  # images may all be of one grey
    return axes * (variances.clamp(min=0) + floor).pow(power) @ axes.T


def gaussian_noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Return x + level * N(0, 1): `level` is a standard deviation, in the units of `x`.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, section 3.3.
    """
    return x + level * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def masking_noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Return `x` with a share `level` in [0, 1] of its elements, chosen at random, set to zero.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, section 3.3.
    """
    return x * (torch.rand(x.shape, generator=generator, device=x.device) >= level)


def salt_and_pepper_noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Return `x` with a share `level` in [0, 1] of its elements set to the batch's least or greatest value.

    References
    ----------
    Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, section 3.3.
    """
    draw = torch.rand(x.shape, generator=generator, device=x.device)
    x = torch.where(draw < level / 2, x.amin(), x)
    return torch.where(draw >= 1 - level / 2, x.amax(), x)


def max_pool_with_switches(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the maxima of windows of `size` x `size`, (N, C, H/size, W/size), and where they were.

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
    """Return what max-pooling and unpooling by switches make of `h`: all but the greatest of each window is zero.

    Computed without leaving the memory format of `h`, (N, C, H, W), which is twice as fast; activations that are
    equally great all stay.

    References
    ----------
    Zeiler and Fergus (2014), Visualizing and understanding convolutional networks, section 2.1.
    """
    return h * (h == F.interpolate(F.max_pool2d(h, size), scale_factor=size))


def spatial_winner_take_all(h: Tensor) -> Tensor:
    """Keep the greatest activation of each map of each image, (N, C, H, W), and set the others to zero.

    Of equals, which are common in half precision, the first.

    References
    ----------
    Makhzani and Frey (2015), Winner-take-all autoencoders, section 3.
    """
    size = h.shape[2:]
    return F.max_unpool2d(*F.max_pool2d(h, size, return_indices=True), size)


def lifetime_winner_take_all(h: Tensor, share: float) -> Tensor:
    """Keep, for each map, the images of the batch with the strongest peaks: a `share` in (0, 1], at least one.

    Applied after `spatial_winner_take_all`, as its authors do. Shape (N, C, H, W) in and out.

    References
    ----------
    Makhzani and Frey (2015), Winner-take-all autoencoders, section 3.
    """
    peaks = h.amax(dim=(2, 3))  # (N, C)
    winners = max(1, round(share * len(h)))
    won = torch.zeros_like(peaks).scatter(0, peaks.topk(winners, dim=0).indices, 1)
    return h * won[:, :, None, None]


def l1_penalty(h: Tensor) -> Tensor:
    """Return the mean absolute activation, a scalar.

    References
    ----------
    Olshausen and Field (1996), Emergence of simple-cell receptive field properties, Nature 381, equation 4.
    """
    return h.abs().mean()


def kl_penalty(h: Tensor, target: float) -> Tensor:
    """Return the mean over maps of KL(target || mean activation), for activations in (0, 1); a scalar.

    References
    ----------
    Lee, Ekanadham and Ng (2008), Sparse deep belief net model for visual area V2, section 3, for the target;
    Hinton (2010), A practical guide to training RBMs, section 11, for the cross-entropy form.
    """
    precise = torch.promote_types(h.dtype, torch.float32)
    mean = h.mean(dim=(0, 2, 3), dtype=precise).clamp(1e-6, 1 - 1e-6)  # (C,)
    goal = torch.full_like(mean, target)
    divergence = goal * (goal / mean).log() + (1 - goal) * ((1 - goal) / (1 - mean)).log()
    return divergence.mean()


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of telling an image's other view from all views in the batch, a scalar.

    ``-log exp(cos(z_i, z_j) / t) / sum over k != i of exp(cos(z_i, z_k) / t)``, of views i and j of an image.

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
    """Return ``25 s + 25 v + c``, a scalar: views alike, no feature constant, no two of them telling the same.

    s is the mean squared difference of two views; v, of both views, the mean shortfall of a feature's standard
    deviation from 1; c, of both, the sum of the squared covariances of features over their number. No image is compared
    with another. As in the authors' code, s is a mean over features as well, and v one over the two views.

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


def conv_transpose(h: Tensor, weight: Tensor, padding: int = 0) -> Tensor:
    """Return the transposed convolution of stride 1, (N, K, H, W), (K, C, F, F) -> (N, C, H + F - 1 - 2 padding, ...).

    To a few channels, such as those of an image, it is computed as a convolution that gives 2 x 2 pixels at once, whose
    channels fill a processor's vectors: twice as fast on CPUs.
    """
    channels, side = weight.shape[1], weight.shape[2]
    sides = [n + side - 1 - 2 * padding for n in h.shape[2:]]
    if channels > FEW or padding >= side or any(n % 2 for n in sides):
        return F.conv_transpose2d(h, weight, padding=padding)
    turned = weight.flip(2, 3).transpose(0, 1)  # (C, K, F, F), as a convolution has it
    shifted = [F.pad(turned, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    filters = torch.stack(shifted, dim=1).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (4 C, K, ...)
    return F.pixel_shuffle(F.conv2d(h, filters, stride=2, padding=side - 1 - padding), 2)
