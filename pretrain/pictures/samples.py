"""Samples that a stage's model draws, decoded to pixels."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pretrain.pictures.drawing import draw_strips
from pretrain.stages.stack import Stack

GIBBS_STEPS_SHOWN = (1, 10, 100, 1000)


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
