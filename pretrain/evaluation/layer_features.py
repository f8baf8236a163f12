"""What the layers of a network make of images, as features."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.network.convnet import ConvNet

GRID = 4  # positions along a side that a probe sees


@torch.no_grad()
def pooled_features(network: ConvNet, images: Tensor, batch_size: int = 500) -> list[Tensor]:
    """Return what the layers make of images, (N, C, H, W), at each depth: preprocessed pixels, after layer 1, ...

    Each (N, C' H' W'), float32 on the CPU: averaged over a grid of `GRID` x `GRID` places, or as many as there are.
    """
    batches = [[_pool(x.float()).flatten(1).cpu() for x in depths] for depths in _outputs(network, images, batch_size)]
    return [torch.cat(batch) for batch in zip(*batches, strict=True)]


@torch.no_grad()
def top_features(network: ConvNet, images: Tensor, batch_size: int = 500) -> Tensor:
    """Return what the head sees of images, (N, C, H, W): (N, features), float32 on the CPU."""
    return torch.cat([depths[-1].float().flatten(1).cpu() for depths in _outputs(network, images, batch_size)])


def _outputs(network: ConvNet, images: Tensor, batch_size: int) -> Iterator[list[Tensor]]:
    """Go through what preprocessing and each layer make of batches of images, in eval mode."""
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    for batch in images.split(batch_size):
        depths = [network.preprocessing(batch.to(device).contiguous(memory_format=torch.channels_last))]
        for layer in network.layers:
            depths.append(layer(depths[-1]))
        yield depths
    network.train(was_training)


def _pool(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return F.adaptive_avg_pool2d(x, (min(GRID, height), min(GRID, width)))
