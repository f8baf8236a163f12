"""Rough estimates of how long training takes, from a few updates on random images."""

import time
from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from pretrain.network.convnet import set_trainable
from pretrain.runs.seeding import generator
from pretrain.stages.convnet_assembly import assemble
from pretrain.stages.stack import SAMPLE_SIZE
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.greedy_pretraining import fit_stages
from pretrain.training.optimizers import build_optimizer
from pretrain.training.recipes import Recipe
from pretrain.training.stack_building import build_stack

UPDATES = 5  # updates that are timed

Shape = tuple[int, int, int]


def pretraining_seconds(stack: StackSettings, shape: Shape, upto: int | None, fabric: Fabric) -> float:
    """Return about how long the first `upto` stages take to train on images of shape (C, H, W); None for all."""
    images = _random_images(SAMPLE_SIZE, shape)

    def seconds(steps: int) -> list[float]:
        plan = build_stack(stack, images, seed=0)
        short = [replace(each, steps=steps) for each in plan.training]
        return [each.seconds for each in fit_stages(plan.stack, images, short, upto=upto, fabric=fabric)]

    seconds(1)  # The first updates of a process take longer.
    once, often = seconds(1), seconds(1 + UPDATES)
    updates = [max(0.0, more - one) / UPDATES for one, more in zip(once, often, strict=True)]
    steps = [each.steps for each in stack.trainings()]
    return sum(one + (count - 1) * update for one, count, update in zip(once, steps, updates, strict=False))


def finetuning_seconds(stack: StackSettings, shape: Shape, classes: list[str], recipe: Recipe, fabric: Fabric) -> float:
    """Return about how long the updates of fine-tuning take; evaluation and fitting a head are left out."""
    if recipe.steps == 0:
        return 0.0
    images = _random_images(recipe.batch_size, shape)
    network = assemble(build_stack(stack, images, seed=0).stack, classes, seed=0).to(fabric.device).train()
    set_trainable(network.layers, not recipe.freeze)
    groups = [{"params": [each for each in network.parameters() if each.requires_grad]}]
    optimizer, labels = (
        build_optimizer(groups, recipe),
        torch.zeros(len(images), dtype=torch.long, device=fabric.device),
    )

    def update() -> float:
        started = time.monotonic()
        with fabric.autocast():
            loss = F.cross_entropy(network(images.to(fabric.device)), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # which waits for a GPU
        return time.monotonic() - started

    update()
    return recipe.steps * median(update() for _ in range(UPDATES))


def _random_images(count: int, shape: Shape) -> Tensor:
    return torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator(0, "estimate"))
