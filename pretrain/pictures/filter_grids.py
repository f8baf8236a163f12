"""Filters of a layer, drawn as pixels."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from pretrain.pictures.drawing import show_image
from pretrain.stages.stack import Stack

SHOWN = 64  # filters in a picture


@torch.no_grad()
def project(stack: Stack, upto: int) -> Tensor:
    """Return the first filters of a layer in preprocessed pixels: (filters, C, size, size).

    A filter is drawn as its weights on the layer below, these as theirs, and so on down to the image, as if there were
    no rectifiers and each pooled value counted the same for every position of its window. For the first layer these
    are the filters themselves.
    """
    layers = [stage.layer for stage in stack][:upto]
    x = torch.eye(layers[-1].conv.out_channels)[:SHOWN, :, None, None]
    for layer in reversed(layers):
        if layer is not layers[-1]:
            x = layer.spread(x)
        x = F.conv_transpose2d(x, layer.conv.weight.float(), stride=layer.conv.stride)
    return x


def draw_filters(stack: Stack, upto: int) -> Figure:
    """Draw the filters of a layer in the colors of the image; gray is zero, each has its own contrast."""
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
