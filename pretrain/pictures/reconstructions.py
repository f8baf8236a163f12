"""Reconstructions of images, and samples of a model, as strips of pictures."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pretrain.network.preprocessing import unit_range
from pretrain.pictures.drawing import draw_strips
from pretrain.stages.stack import Stack

GIBBS_STEPS_SHOWN = (1, 10, 100, 1000)


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


def draw_samples(stack: Stack, images: Tensor, upto: int, generator: torch.Generator) -> Figure:
    """Draw samples of stage `upto`, whose chains start at images, decoded to pixels.

    Raises
    ------
    NotImplementedError
        When that stage has no samples, or a stage below it has no decoder.
    """
    rows = {"images,\nas decoded": stack.sample(images, upto, 0, generator)}
    for steps in GIBBS_STEPS_SHOWN:
        rows[f"{steps:,} step{'s' * (steps > 1)}"] = stack.sample(images, upto, steps, generator)
    return draw_strips(rows)
