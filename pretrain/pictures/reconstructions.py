"""Reconstructions of images, and samples of a model, as strips of pictures."""

from matplotlib.figure import Figure
from torch import Tensor

from pretrain.network.preprocessing import unit_range
from pretrain.pictures.drawing import draw_strips
from pretrain.stages.stack import Stack


def draw_reconstructions(stack: Stack, images: Tensor, upto: int) -> Figure:
    """Draw images above their reconstructions from the output of each of the first `upto` stages.

    Raises
    ------
    NotImplementedError
        When a stage has no decoder.
    """
    original = unit_range(images)
    rows = {"image": original}
    for k in range(1, upto + 1):
        rows[f"through\nstage{'s 1-' + str(k) if k > 1 else ' 1'}"] = stack.reconstruct(images, k)
    return draw_strips(rows)
