"""Filters that start as whitened patches of a layer's inputs."""

import torch
from torch import Tensor, nn

from pretrain.errors import choose
from pretrain.runs.seeding import seeded
from pretrain.stages.kmeans import KMeans

FILTERS = ("random", "patches", "kmeans")  # that other kinds of stage may start from
FEW, PASSES = 10, 20  # patches of each image, and passes over the images, of k-means for them


@torch.no_grad()
def start_from_patches(conv: nn.Conv2d, images: Tensor, how: str, generator: torch.Generator) -> None:
    """Give a convolution filters that are whitened patches of its inputs; together they have the norm of those before.

    These are the centroids of `KMeans` themselves, not the filters that answer to them.

    Parameters
    ----------
    conv : nn.Conv2d
        Its weights are changed in place.
    images : Tensor, (N, C, H, W)
        A sample of its inputs.
    how : {"random", "patches", "kmeans"}
        Leave them as they are; random patches; or the centroids of a short run of k-means, which start from these.
    generator : torch.Generator
        For the draw of the patches.

    References
    ----------
    Coates and Ng (2011), The importance of encoding versus training with sparse coding and vector quantization. ICML.
    """
    choose("filters", how, FILTERS)
    if how == "random":
        return
    channels, side, padding = (conv.in_channels, conv.out_channels), conv.kernel_size[0], int(conv.padding[0])
    with seeded(0, "start from patches"):  # what is drawn here is overwritten, but no stream of the caller's moves
        stage = KMeans(*channels, kernel_size=side, padding=padding, patches=FEW).to(images.device)
    stage.prepare(images, (images.new_empty(0), images.new_empty(0)), generator)
    for _ in range(PASSES if how == "kmeans" else 0):
        stage.accumulate_grad(images, generator)
        stage.layer.conv.weight.sub_(stage.layer.conv.weight.grad)  # type: ignore[arg-type]
        stage.constrain()
    centroids = stage.centroids.view_as(conv.weight)
    conv.weight.copy_(centroids * (conv.weight.norm() / centroids.norm()))
