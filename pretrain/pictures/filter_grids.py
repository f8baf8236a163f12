"""Filters of a layer, drawn as pixels."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from pretrain.pictures.drawing import show_image
from pretrain.stages.stack import Stack

FILTERS_PER_PICTURE = 64


@torch.no_grad()
def project(stack: Stack, upto: int) -> Tensor:
    """Return the first filters of a layer in preprocessed pixels: (filters, C, size, size).

    A filter is projected through the transposed layers below it, down to the image. Activations are left out, and a
    pooled value counts the same for every position of its window. The first layer's filters are returned as they are.
    """
    layers = [stage.layer for stage in stack][:upto]
    x = torch.eye(layers[-1].conv.out_channels)[:FILTERS_PER_PICTURE, :, None, None]
    for layer in reversed(layers):
        if layer is not layers[-1]:
            x = layer.spread(x)
        x = F.conv_transpose2d(x, layer.conv.weight.float(), stride=layer.conv.stride)
    return x


def draw_filters(stack: Stack, upto: int) -> Figure:
    """Draw the filters of a layer as pixels, each with its own contrast; gray is zero."""
    fields = project(stack, upto)
    fields = fields / fields.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    total = stack[upto - 1].out_channels
    figure = Figure(figsize=(6, 6.3))
    axes = figure.subplots()
    columns = round(len(fields) ** 0.5)
    show_image(axes, make_grid(fields / 2 + 0.5, nrow=columns, padding=1, pad_value=1.0))
    shown = "all" if total == len(fields) else f"the first {len(fields)} of"
    axes.set_title(f"Stage {upto}: {shown} {total} filters, as pixels", fontsize=11)
    return figure
