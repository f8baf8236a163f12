"""What training costs, in floating-point operations: the same on every machine, unlike seconds."""

import copy

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pretrain.network.convnet import ConvNet, set_trainable
from pretrain.runs.seeding import generator
from pretrain.stages.stack import SAMPLE, Stack, bounds_of
from pretrain.training.recipes import Recipe, Training


def stage_flops(stack: Stack, position: int, settings: Training, pool: int) -> int:
    """Return what training one stage costs: its preparation and updates, and the layers below that make its inputs.

    Only convolutions and products of matrices are counted, a multiplication and an addition as two; the rest is small
    beside them.

    Parameters
    ----------
    stack : Stack
        The stages below are of their final shape; nothing is changed.
    position : int
        Of the stage, from 0 at the input.
    settings : Training
        Steps and batch size.
    pool : int
        Unlabelled images. What the layers below make of each is computed once for all, as where it can be kept.
    """
    size = min(settings.batch_size, pool)
    views = stack[position].views
    shape, copies = (views.shape(stack.image_shape), 2) if views else (stack.image_shape, 1)
    images = torch.zeros(copies * size, *shape)
    below, stage = copy.deepcopy(stack.below(position)).cpu().eval(), copy.deepcopy(stack[position]).cpu().train()
    with FlopCounterMode(display=False) as inputs, torch.no_grad():
        x = below(images)
    with torch.no_grad():
        sample = below(torch.zeros(min(SAMPLE, pool), *stack.image_shape))
    with FlopCounterMode(display=False) as preparation:
        stage.prepare(sample, bounds_of(below), generator(0, "flops"))
    with FlopCounterMode(display=False) as updates:
        stage.accumulate_grad(x, generator(0, "flops"))
    draws = settings.steps * size
    passes = min(draws, pool) if position and not views else draws  # preprocessing alone is not kept, nor are views
    learning = preparation.get_total_flops() + settings.steps * updates.get_total_flops()
    return learning + inputs.get_total_flops() * passes // size


def finetuning_flops(network: ConvNet, settings: Recipe, labels: int, steps: int) -> int:
    """Return what fine-tuning costs, counted as `stage_flops` counts it; without validation and testing.

    Of a head that is fitted, that is the pass of the labelled images through the layers, and of their mirror images
    where they are learned; solving for the head is not counted.

    Parameters
    ----------
    network : ConvNet
        Left as it is.
    settings : Recipe
        Batch size, and what is frozen.
    labels : int
        Labelled images.
    steps : int
        Updates.
    """
    size = min(settings.batch_size, labels)
    head_steps = steps if settings.freeze else min(settings.head_steps, steps)
    head, whole = (size * _image_flops(network, trainable=trainable) for trainable in (False, True))
    learning = head_steps * head + (steps - head_steps) * whole
    if settings.head == "random":
        return learning
    return labels * (2 if settings.flip else 1) * _forward_flops(network) + learning


def _forward_flops(network: ConvNet) -> int:
    """Return what one image costs to pass the layers."""
    network = copy.deepcopy(network).cpu().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.layers(network.preprocessing(torch.zeros(1, *network.image_shape)))
    return counter.get_total_flops()


def _image_flops(network: ConvNet, *, trainable: bool) -> int:
    """Return what one image costs in an update, the layers learning with the head or frozen."""
    network = copy.deepcopy(network).cpu().train()
    set_trainable(network.layers, trainable)
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(1, *network.image_shape))
        F.cross_entropy(logits, torch.zeros(1, dtype=torch.long)).backward()
    return counter.get_total_flops()
