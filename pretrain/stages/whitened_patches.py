"""Contrast-normalized, whitened patches of a layer's inputs, and spherical k-means on them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pretrain.network.patches import random_patches
from pretrain.network.preprocessing import contrast_normalized
from pretrain.network.whitening import whitening_power
from pretrain.runs.batch_parts import WHOLE, BatchPart, part_of

WHITENED_PATCHES = 50_000  # patches that the whitening is fitted to
# This share of the inputs' variance is added to that of a patch: what is nearly flat is not blown up.
LEAST_PATCH_CONTRAST = 0.04


class Assignment(NamedTuple):
    """Patches and the centroids that they belong to.

    Attributes
    ----------
    patches : Tensor, (N, D)
        Whitened, of unit norm.
    similarity : Tensor, (N,)
        The cosine of each patch with its nearest centroid.
    nearest : Tensor, (N,)
        The number of that centroid.
    """

    patches: Tensor
    similarity: Tensor
    nearest: Tensor


class WhitenedPatches(nn.Module):
    """Spherical k-means on contrast-normalized, whitened patches of a convolution's inputs.

    A patch p becomes ``z = W (contrast_normalized(p) - m)`` divided by its norm, with the ZCA matrix W. The centroids
    d_k have unit norm. They are kept as filters, ``W d_k``, which answer to a patch as the centroids do to the whitened
    one, since W is symmetric.

    Parameters
    ----------
    channels : int
        Channels of the inputs, C.
    side : int
        Side of the patches, F; D = C * F * F.
    padding : int
        Zeros added around the inputs, as the convolution adds them.
    regularizer : float
        What is added to the variances that the whitening divides by, as a share of their mean.

    References
    ----------
    Dhillon and Modha (2001), Concept decompositions for large sparse text data using clustering. Machine Learning 42.
    Coates and Ng (2012), Learning feature representations with k-means. Neural networks: tricks of the trade.
    """

    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor
    least_contrast: Tensor

    def __init__(self, channels: int, side: int, padding: int, regularizer: float):
        super().__init__()
        self.side, self.padding, self.regularizer = side, padding, regularizer
        size = channels * side**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whiten", torch.eye(size))
        self.register_buffer("unwhiten", torch.eye(size))
        self.register_buffer("least_contrast", torch.tensor(LEAST_PATCH_CONTRAST))

    @torch.no_grad()
    def fit(self, images: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Fit the whitening to a sample of the inputs, (N, C, H, W), and return `count` patches as filters, (K, D)."""
        # Images may all be of one gray, whose variance is zero.
        self.least_contrast.copy_((LEAST_PATCH_CONTRAST * images.var()).clamp(min=1e-6))
        p = self.draw(images, WHITENED_PATCHES, generator).cpu().double()
        self.mean.copy_(p.mean(dim=0))
        covariance = torch.cov(p.T)
        self.whiten.copy_(whitening_power(covariance, self.regularizer, -0.5))
        self.unwhiten.copy_(whitening_power(covariance, self.regularizer, 0.5))
        chosen = torch.randperm(len(p), generator=generator)[:count]
        return self(p[chosen].to(self.mean)) @ self.whiten

    def draw(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return random contrast-normalized patches of inputs, (count, D), padded as the convolution pads them.

        Where `x` is a part of a batch, they are as many of those that are drawn from the whole.
        """
        part = part_of(generator)
        padded = nn.functional.pad(part.gather(x), [self.padding] * 4)
        p = part.take(random_patches(padded, self.side, part.count * count, generator))
        return contrast_normalized(p.flatten(1), self.least_contrast)

    def forward(self, p: Tensor) -> Tensor:
        """Return contrast-normalized patches, (N, D), whitened and of unit norm."""
        return nn.functional.normalize((p - self.mean) @ self.whiten, dim=1)

    def centroids(self, filters: Tensor) -> Tensor:
        """Return the centroids of filters, (K, D): whitened patches, of unit norm once normalized."""
        return filters @ self.unwhiten

    def norms(self, filters: Tensor) -> Tensor:
        """Return the norms of the centroids of filters, (K, D) -> (K,), kept off zero."""
        return self.centroids(filters).norm(dim=1).clamp(min=1e-12)

    def assign(self, filters: Tensor, x: Tensor, count: int, generator: torch.Generator) -> Assignment:
        """Draw `count` patches of inputs, (N, C, H, W), and find the nearest centroid of each."""
        z = self(self.draw(x.to(self.mean), count, generator))
        return Assignment(z, *(z @ self.centroids(filters).T).max(dim=1))

    def change(self, filters: Tensor, assignment: Assignment, part: BatchPart = WHOLE) -> tuple[Tensor, Tensor]:
        """Return ``W d_k - W m_k``, (K, D), where m_k is the mean of the patches that belong to centroid d_k.

        A centroid without patches does not change. The patches may be a part of those of a batch.

        Returns
        -------
        Tensor, (K, D), and Tensor, (K, 1)
            The change, to be subtracted from the filters, and how many patches belong to each centroid.
        """
        z, _, nearest = assignment
        # A product has the same bits on a GPU, which a sum by index has not.
        members = nn.functional.one_hot(nearest, len(filters)).to(z).T
        counts, sums = part.sum(members.sum(dim=1, keepdim=True)), part.sum(members @ z)
        update = filters - sums / counts.clamp(min=1) @ self.whiten
        return torch.where(counts > 0, update, 0), counts
