"""Features of images: the outputs of the layers of a network."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.errors import UserError
from pretrain.network.convnet import ConvNet
from pretrain.network.preprocessing import Images

PROBE_GRID = 4  # places along each side at which a probe sees a layer


@torch.no_grad()
def pooled_features(network: ConvNet, images: Images, batch_size: int = 500) -> list[Tensor]:
    """Return features of images, (N, C, H, W), at each depth: preprocessed pixels, the output of layer 1, and so on.

    Each is (N, features), float32 on the CPU: averages over a grid of `PROBE_GRID` x `PROBE_GRID` places, or of as many
    places as the layer has.
    """
    batches = [[_pool(x.float()).flatten(1).cpu() for x in depths] for depths in _outputs(network, images, batch_size)]
    features = [torch.cat(batch) for batch in zip(*batches, strict=True)]
    for depth, x in enumerate(features):
        _require_finite(x, depth)
    return features


@torch.no_grad()
def top_features(network: ConvNet, images: Images, batch_size: int = 500) -> Tensor:
    """Return the head's inputs for images, (N, C, H, W): (N, features), float32 on the CPU."""
    x = torch.cat([depths[-1].float().flatten(1).cpu() for depths in _outputs(network, images, batch_size)])
    _require_finite(x, len(network.layers))
    return x


def _require_finite(x: Tensor, depth: int) -> None:
    """Raise a `UserError` unless the features at a depth are finite numbers, as classifiers need them."""
    if not x.isfinite().all():
        source = f"output of layer {depth}" if depth else "preprocessed pixels"
        raise UserError(f"the {source} has values that are not finite numbers: train its layers again, more slowly.")


def _outputs(network: ConvNet, images: Images, batch_size: int) -> Iterator[list[Tensor]]:
    """Yield the outputs of preprocessing and of each layer for batches of images, in eval mode."""
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
    return F.adaptive_avg_pool2d(x, (min(PROBE_GRID, height), min(PROBE_GRID, width)))
