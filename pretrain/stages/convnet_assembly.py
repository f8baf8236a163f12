"""Assemble trained stages into a ConvNet."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pretrain.errors import UserError, require_between
from pretrain.network.convnet import ConvNet
from pretrain.network.layer import Layer
from pretrain.network.preprocessing import Images
from pretrain.runs.seeding import generator, seeded
from pretrain.stages.stack import SAMPLE_SIZE, Stack


@torch.no_grad()
def normalize_layers(layers: Iterable[Layer], inputs: Tensor, how: str) -> None:
    """Normalize each layer in turn, on inputs of the first, (N, C, H, W).

    Raises
    ------
    UserError
        When the output of a layer is the same everywhere.
    """
    for layer in layers:
        try:
            layer.normalize(inputs, how)
        except UserError as error:
            raise UserError(f"a layer from scratch: {error}: are they all alike?") from None
        inputs = layer(inputs)


def assemble(
    stack: Stack,
    classes: Sequence[str],
    *,
    seed: int,
    pretrained: bool = True,
    upto: int | None = None,
    unlabelled: Images | None = None,
) -> ConvNet:
    """Copy the layers of a stack into a ConvNet with a new fully connected head.

    Parameters
    ----------
    stack : Stack
        Left as it is.
    classes : sequence of str
        Names of the classes, in the order of the labels.
    seed : int
        Names the draw of the head's weights and, from scratch, of the layers' weights. Both arms get the same head.
    pretrained : bool
        Keep what the layers learned. Otherwise they get a standard initialization: that is the network from scratch,
        the same graph in all else.
    upto : int, optional
        Keep the first so many pretrained layers, and give those above a standard initialization; None keeps all.
    unlabelled : Tensor or LazyImages, optional
        Images (N, C, H, W). The layers that start from scratch are normalized on a sample of them, in the same way as
        the trained ones of the stack; without images they are not normalized.

    Returns
    -------
    ConvNet
        The layers of a pretrained network compute the same function as those of the stages one after the other.

    Raises
    ------
    UserError
        When the stack has fewer layers than `upto`.
    """
    if upto is not None:
        require_between("upto", upto, 0, len(stack))
    kept = (len(stack) if upto is None else upto) if pretrained else 0
    preprocessing = copy.deepcopy(stack.preprocessing)
    layers = [copy.deepcopy(stage.layer) for stage in stack]
    for position, layer in enumerate(layers[kept:], kept):
        with seeded(seed, "initialise", position):
            layer.reset_parameters()
    if kept < len(layers) and unlabelled is not None:
        sample = torch.randperm(len(unlabelled), generator=generator(seed, "initialise", "sample"))[:SAMPLE_SIZE]
        with torch.no_grad():
            below = nn.Sequential(preprocessing, *layers[:kept])(unlabelled[sample].to(preprocessing.mean.device))
        normalize_layers(layers[kept:], below, stack.normalization)
    with seeded(seed, "initialise", "head"):
        network = ConvNet(preprocessing, layers, stack.image_shape, classes)
    for layer in layers:
        layer.fold_scale()
    return network
