"""Reconstructions of images, and samples of a model, as strips of pictures."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pretrain.network.preprocessing import unit_range
from pretrain.pictures.drawing import draw_strips
from pretrain.stages.stack import Stack

STEPS = (1, 10, 100, 1000)  # of the chains in a picture of samples


def draw_reconstructions(stack: Stack, images: Tensor, upto: int) -> Figure:
    """Draw images above what is left of them after each of the first stages, decoded through the whole stack.

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
    """Draw where chains of the last of the first `upto` stages get to from images, decoded down to pixels.

    Raises
    ------
    NotImplementedError
        When that stage is no model to draw from, or one below it has no decoder.
    """
    rows = {"images,\nas decoded": stack.sample(images, upto, 0, generator)}
    for steps in STEPS:
        rows[f"{steps:,} step{'s' * (steps > 1)}"] = stack.sample(images, upto, steps, generator)
    return draw_strips(rows)
