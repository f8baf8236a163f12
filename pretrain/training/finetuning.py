"""Training an assembled ConvNet end to end on the labels there are."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from pretrain.data.augmentation import mixup, random_crop, random_flip
from pretrain.data.dataset import Dataset
from pretrain.data.splits import label_subset
from pretrain.errors import UserError
from pretrain.evaluation.fitted_head import FittedHead, fit_head
from pretrain.evaluation.predictions import Evaluation, evaluate
from pretrain.network.convnet import ConvNet, set_trainable
from pretrain.network.preprocessing import unit_range
from pretrain.runs.device import Device
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.seeding import generator
from pretrain.stages.base import Metrics
from pretrain.training.minibatches import BatchOrder, share_out
from pretrain.training.optimizers import build_optimizer
from pretrain.training.recipes import Recipe
from pretrain.training.schedules import Schedule
from pretrain.training.trainer import Trainer
from pretrain.training.weight_penalties import towards_start


@dataclass
class Result:
    """What fine-tuning gave.

    Attributes
    ----------
    validation : Evaluation or None
        On the validation images, where there are any.
    test : Evaluation or None
        On the test split, opened once, at the end; None where it was to stay closed.
    seconds : float
        Of training alone: without evaluation, logging and checkpoints.
    images_per_second : float
        Training images over those seconds.
    steps : int
        Updates done: fewer than asked for after early stopping.
    head : FittedHead or None
        How the head was fitted before, where it was.
    """

    validation: Evaluation | None
    test: Evaluation | None
    seconds: float
    images_per_second: float
    steps: int
    head: FittedHead | None = None


def finetune_network(
    network: ConvNet,
    data: Dataset,
    *,
    labels: int | None = None,
    seed: int = 0,
    settings: Recipe | None = None,
    fabric: Fabric | None = None,
    folder: RunFolder | None = None,
    test: bool = True,
) -> Result:
    """Train a network on labelled images and evaluate it on the test split, once.

    Parameters
    ----------
    network : ConvNet
        Changed in place.
    data : Dataset
        Its training images are seen with their labels as far as the budget goes.
    labels : int, optional
        Label budget; None for all.
    seed : int
        Draws the label subset, and names every other draw.
    settings : Recipe, optional
        How to train.
    fabric : Fabric, optional
        Device and precision; by default the best that there is.
    folder : RunFolder, optional
        Where to log and keep checkpoints; a run that is there goes on.
    test : bool
        Open the test split at the end; False for a trial, by which settings are chosen.

    Raises
    ------
    UserError
        When there are not so many labels, or the settings do not fit the network.
    """
    settings = settings or Recipe()
    settings.check_network(len(network.layers), network.image_shape)
    fabric = fabric or Device().launch()
    subset = data.train.subset(label_subset(data.train.labels, labels, seed))
    started = time.monotonic()
    head = None
    if settings.head != "random":
        with fabric.autocast():
            head = fit_head(network.to(fabric.device), subset, data.validation, settings.head, settings.flip)
        for parameter in network.head.parameters():  # of several processes, the first one's
            parameter.data.copy_(fabric.broadcast(parameter.data))
    network.head.get_submodule("dropout").p = settings.dropout  # type: ignore[assignment]
    network.to(fabric.device).to(memory_format=torch.channels_last)
    order = BatchOrder(len(subset), settings.batch_size, seed, "finetune")
    smoothing = settings.label_smoothing

    def compute_gradients(step: int) -> Metrics:
        set_trainable(network.layers, not settings.freeze and step >= settings.alone)
        positions = share_out(order(step), fabric)
        draw = generator(seed, "finetune", "augment", step, fabric.global_rank)
        images = random_crop(subset.images[positions].to(fabric.device), settings.crop, draw)
        images = random_flip(images, draw) if settings.flip else images
        target = subset.labels[positions].to(fabric.device)
        shares = target  # of the classes, where images are mixed
        if settings.mixup:
            images, partners, share = mixup(unit_range(images), settings.mixup, draw)
            own = F.one_hot(target, len(network.classes)).float()
            shares = torch.lerp(own[partners], own, share)
        logits = network(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), shares, label_smoothing=smoothing)
        loss.backward()
        accuracy = (logits.detach().argmax(dim=1) == target).float().mean()
        return {"loss": float(loss.detach()), "accuracy": float(accuracy)}

    def validate() -> Metrics:
        with fabric.autocast():
            return {"val_accuracy": evaluate(network, data.validation).accuracy}

    checks = len(data.validation) > 0
    if settings.early_stopping and not checks:
        raise UserError("recipe.early_stopping needs validation images: give data.validation more than 0.")
    optimizer = build_optimizer(_parameter_groups(network, settings), settings)
    loop = Trainer(
        "finetune",
        network,
        optimizer,
        settings,
        compute_gradients,
        seed,
        fabric,
        folder,
        constrain=towards_start(optimizer) if settings.l2_sp else None,
        evaluate=validate if checks else None,
        evaluate_every=settings.evaluate_every,
        best="val_accuracy" if settings.early_stopping else None,
        patience=settings.patience,
        impatient_from=settings.alone,
        seconds=time.monotonic() - started,
    )
    loop.run()
    network.eval()
    with fabric.autocast():
        validation = evaluate(network, data.validation) if checks else None
        tested = evaluate(network, data.open_test()) if test else None
    images = loop.step * min(settings.batch_size, len(subset))
    return Result(validation, tested, loop.seconds, images / loop.seconds, loop.step, head)


def _parameter_groups(network: ConvNet, settings: Recipe) -> list[dict[str, Any]]:
    """Return a group for each layer and one for the head, each with its learning rate as a function of the step."""
    multipliers = settings.multipliers(len(network.layers))
    schedule = partial(Schedule, settings, first=settings.alone)
    layers = {"l2_sp": settings.l2_sp, **({"weight_decay": 0.0} if settings.l2_sp else {})}
    groups = []
    for module, multiplier in zip(network.layers, multipliers, strict=True):
        groups.append({"params": list(module.parameters()), "schedule": schedule(multiplier), **layers})
    return [*groups, {"params": list(network.head.parameters()), "schedule": schedule(1.0), "l2_sp": 0.0}]
