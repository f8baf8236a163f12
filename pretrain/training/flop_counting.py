"""Cost of training in floating-point operations which, unlike seconds, are the same on every machine."""

import copy

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pretrain.network.convnet import ConvNet, set_trainable
from pretrain.runs.seeding import generator
from pretrain.stages.stack import SAMPLE_SIZE, Stack, bounds_of
from pretrain.training.recipes import Recipe, Training


def stage_flops(stack: Stack, position: int, training: Training, pool: int) -> int:
    """Return the floating-point operations of training one stage.

    They are those of its preparation, of its updates, and of the layers below that compute its inputs. Only
    convolutions and matrix products are counted, a multiply-add as two operations; the rest is small beside them.

    Parameters
    ----------
    stack : Stack
        Not changed.
    position : int
        Position of the stage, counted from 0 at the input.
    training : Training
        Steps and batch size.
    pool : int
        Number of unlabelled images. Their inputs are counted once, as if they were always kept.
    """
    size = min(training.batch_size, pool)
    views = stack[position].views
    shape, copies = (views.shape(stack.image_shape), 2) if views else (stack.image_shape, 1)
    images = torch.zeros(copies * size, *shape)
    below, stage = copy.deepcopy(stack.below(position)).cpu().eval(), copy.deepcopy(stack[position]).cpu().train()
    with FlopCounterMode(display=False) as inputs, torch.no_grad():
        x = below(images)
    with torch.no_grad():
        sample = below(torch.zeros(min(SAMPLE_SIZE, pool), *stack.image_shape))
    with FlopCounterMode(display=False) as preparation:
        stage.prepare(sample, bounds_of(below), generator(0, "flops"))
    with FlopCounterMode(display=False) as updates:
        stage.accumulate_grad(x, generator(0, "flops"))
    draws = training.steps * size
    # Neither the output of preprocessing alone nor views are kept.
    passes = min(draws, pool) if position and not views else draws
    learning = preparation.get_total_flops() + training.steps * updates.get_total_flops()
    return learning + inputs.get_total_flops() * passes // size


def finetuning_flops(network: ConvNet, recipe: Recipe, labels: int, steps: int) -> int:
    """Return the floating-point operations of fine-tuning, counted as in `stage_flops`.

    Evaluation is not counted. A fitted head costs one forward pass of the labelled images through the layers, and
    another of their mirror images if they are used; solving for its weights is not counted.

    Parameters
    ----------
    network : ConvNet
        Not changed.
    recipe : Recipe
        Batch size, and what is frozen.
    labels : int
        Number of labelled images.
    steps : int
        Number of updates.
    """
    size = min(recipe.batch_size, labels)
    head_steps = steps if recipe.freeze else min(recipe.head_steps, steps)
    head, whole = (size * _image_flops(network, trainable=trainable) for trainable in (False, True))
    learning = head_steps * head + (steps - head_steps) * whole
    if recipe.head == "random":
        return learning
    return labels * (2 if recipe.flip else 1) * _forward_flops(network) + learning


def _forward_flops(network: ConvNet) -> int:
    """Return the operations of the forward pass of one image through the layers."""
    network = copy.deepcopy(network).cpu().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.layers(network.preprocessing(torch.zeros(1, *network.image_shape)))
    return counter.get_total_flops()


def _image_flops(network: ConvNet, *, trainable: bool) -> int:
    """Return the operations of an update per image, in which the layers train with the head or are frozen."""
    network = copy.deepcopy(network).cpu().train()
    set_trainable(network.layers, trainable)
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(1, *network.image_shape))
        F.cross_entropy(logits, torch.zeros(1, dtype=torch.long)).backward()
    return counter.get_total_flops()
