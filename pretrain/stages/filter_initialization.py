"""Filters that start as whitened patches of a layer's inputs."""

import torch
from torch import Tensor, nn

from pretrain.stages.whitened_patches import WhitenedPatches

# A short run of k-means: so many patches of each image, in so many passes over the images, whitened by so much.
PATCHES_PER_IMAGE, PASSES, REGULARIZER = 10, 20, 0.1


@torch.no_grad()
def initialize_filters(conv: nn.Conv2d, images: Tensor, how: str, generator: torch.Generator) -> None:
    """Replace the filters of a convolution by whitened patches of its inputs; together they keep their norm.

    The new filters are the centroids themselves, not the filters that answer to them.

    Parameters
    ----------
    conv : nn.Conv2d
        Its weights are changed in place.
    images : Tensor, (N, C, H, W)
        A sample of its inputs.
    how : {"random", "patches", "kmeans"}
        Leave the filters as they are; random patches; or the centroids of a short run of k-means, which start from
        these.
    generator : torch.Generator
        For the draw of the patches.

    References
    ----------
    Coates and Ng (2011), The importance of encoding versus training with sparse coding and vector quantization. ICML.
    """
    if how == "random":
        return
    side, padding = conv.kernel_size[0], int(conv.padding[0])
    patches = WhitenedPatches(conv.in_channels, side, padding, REGULARIZER).to(images.device)
    filters = patches.fit(images, conv.out_channels, generator)
    for _ in range(PASSES if how == "kmeans" else 0):
        with torch.autocast(images.device.type, enabled=False):
            assignment = patches.assign(filters, images, PATCHES_PER_IMAGE * len(images), generator)
            change, _ = patches.change(filters, assignment)
        filters = filters - change
        filters = filters / patches.norms(filters)[:, None]
    centroids = patches.centroids(filters).view_as(conv.weight)
    conv.weight.copy_(centroids * (conv.weight.norm() / centroids.norm()))
