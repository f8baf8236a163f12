"""Training an assembled ConvNet end to end on the labels there are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from pretrain.data.augmentation import mixup, random_crop, random_flip
from pretrain.data.dataset import Dataset, Labelled
from pretrain.data.splits import label_subset
from pretrain.errors import UserError
from pretrain.evaluation.fitted_head import FittedHead, fit_head
from pretrain.evaluation.predictions import Evaluation, evaluate
from pretrain.network.convnet import ConvNet, set_trainable
from pretrain.network.dropout import Dropout
from pretrain.network.preprocessing import unit_range
from pretrain.runs.batch_parts import BatchPart
from pretrain.runs.device import Device
from pretrain.runs.profiling import timed
from pretrain.runs.run_folder import RunFolder
from pretrain.stages.base import not_finite
from pretrain.training.checkpointing import Checkpointing
from pretrain.training.data_parallel import equal_part
from pretrain.training.diagnosis import NOT_SAVED, Diagnosis
from pretrain.training.early_stopping import EarlyStopping
from pretrain.training.metric_logging import MetricLogging
from pretrain.training.minibatches import BatchOrder
from pretrain.training.optimizers import build_optimizer
from pretrain.training.periodic_evaluation import PeriodicEvaluation
from pretrain.training.recipes import Recipe
from pretrain.training.schedules import Schedule
from pretrain.training.trainer import Callback, Metrics, Trainer
from pretrain.training.weight_penalties import decoupled_l2_sp


@dataclass
class Result:
    """What fine-tuning gave.

    Attributes
    ----------
    validation : Evaluation or None
        On the validation images; None if there are none.
    test : Evaluation or None
        On the test split, opened once, at the end; None if it was to stay closed.
    seconds : float
        Training time, that of fitting the head included. Evaluation, logging and checkpoints are not counted.
    images_per_second : float
        Training images per second of that time.
    steps : int
        Updates done: fewer than asked for after early stopping.
    head : FittedHead or None
        How the head was fitted before training; None if it started at random.
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
    label_seed: int | None = None,
    recipe: Recipe | None = None,
    fabric: Fabric | None = None,
    folder: RunFolder | None = None,
    test: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train a network on labelled images and evaluate it on the test split, once.

    Parameters
    ----------
    network : ConvNet
        Changed in place.
    data : Dataset
        As many labels of its training images are used as the budget allows.
    labels : int, optional
        Label budget. None: all labels.
    seed : int
        Names every draw of training.
    label_seed : int, optional
        Draws the label subset. None: `seed`.
    recipe : Recipe, optional
        How to train.
    fabric : Fabric, optional
        Device, precision and processes. None: the best available.
    folder : RunFolder, optional
        Where to log and to keep checkpoints. An interrupted run in it is resumed.
    test : bool
        Whether to open the test split at the end. A trial, by which settings are chosen, leaves it closed.
    callbacks : sequence of Callback
        Called after those that log, check, evaluate and save.

    Returns
    -------
    Result
        Evaluations, steps and seconds.

    Raises
    ------
    UserError
        When there are fewer labels than the budget, the recipe does not fit the network, the recipe needs validation
        images and there are none, or training diverges.
    """
    recipe = recipe or Recipe()
    recipe.check_network(len(network.layers), network.image_shape)
    fabric = fabric or Device().launch()
    train = data.train.subset(label_subset(data.train.labels, labels, seed if label_seed is None else label_seed))
    part = equal_part(fabric, {"recipe.batch_size": min(recipe.batch_size, len(train))} if recipe.steps else {})
    standard = _standard_callbacks(network, data.validation, recipe, fabric, folder)
    started = time.monotonic()
    with timed("preparation"):
        head = _prepare_network(network, train, data.validation, recipe, fabric)
    optimizer = build_optimizer(_parameter_groups(network, recipe), recipe)
    trainer = Trainer(
        name="finetune",
        module=network,
        optimizer=optimizer,
        training=recipe,
        compute_gradients=_SupervisedGradients(network, train, recipe, seed, fabric.device, part),
        seed=seed,
        fabric=fabric,
        callbacks=[*standard, *callbacks],
        constrain=decoupled_l2_sp(optimizer) if recipe.l2_sp else None,
        seconds=time.monotonic() - started,
    )
    trainer.fit()
    network.eval()
    validation = _evaluate(network, data.validation, recipe, fabric) if len(data.validation) else None
    tested = _evaluate(network, _opened_test(data), recipe, fabric) if test else None
    images = trainer.step * min(recipe.batch_size, len(train))
    return Result(validation, tested, trainer.seconds, images / trainer.seconds, trainer.step, head)


def _opened_test(data: Dataset) -> Labelled:
    with timed("decoding"):
        return data.open_test()


def _evaluate(network: ConvNet, images: Labelled, recipe: Recipe, fabric: Fabric) -> Evaluation:
    """Evaluate a network in the precision of the run; one that diverged is refused with the setting to change."""
    try:
        with timed("checks"), fabric.autocast():
            return evaluate(network, images)
    except UserError as error:
        raise UserError(f"finetune: {error} Lower learning_rate={recipe.learning_rate:g}. {NOT_SAVED}") from None


def _standard_callbacks(
    network: ConvNet, validation: Labelled, recipe: Recipe, fabric: Fabric, folder: RunFolder | None
) -> list[Callback]:
    """Return the callbacks that check, log, save, evaluate and stop, as far as they are asked for."""

    def validate() -> Metrics:
        return {"val_accuracy": _evaluate(network, validation, recipe, fabric).accuracy}

    callbacks: list[Callback] = [Diagnosis(not_finite)]
    if folder:
        callbacks = [Checkpointing(folder), *callbacks, MetricLogging(folder)]
    evaluation = PeriodicEvaluation(validate, recipe.evaluate_every)
    if len(validation):
        callbacks.append(evaluation)
    if recipe.early_stopping:
        if not len(validation):
            raise UserError(
                "recipe.early_stopping needs validation images, and there are none: give a greater data.validation."
            )
        # The wait begins where the layers join the head.
        callbacks.append(EarlyStopping(evaluation, "val_accuracy", recipe.patience, recipe.head_only_steps))
    return callbacks


def _prepare_network(
    network: ConvNet, train: Labelled, validation: Labelled, recipe: Recipe, fabric: Fabric
) -> FittedHead | None:
    """Fit the head if the recipe says so, and bring the network to the device."""
    head = None
    network.to(fabric.device)
    if recipe.head != "random":
        with fabric.autocast():
            head = fit_head(network, train, validation, recipe.head, recipe.flip)
        # Every process goes on with the head of the first one.
        for parameter in network.head.parameters():
            parameter.data.copy_(fabric.broadcast(parameter.data))
    network.head.get_submodule("dropout").p = recipe.dropout  # type: ignore[assignment]
    network.to(memory_format=torch.channels_last)
    return head


def _parameter_groups(network: ConvNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Return one group for each layer and one for the head, each with its schedule and its penalties."""
    schedule = partial(Schedule, recipe, first_phase=recipe.head_only_steps)
    # L2-SP takes the place of weight decay in the layers; the head keeps it.
    penalties = {"l2_sp": recipe.l2_sp, "weight_decay": 0.0} if recipe.l2_sp else {"l2_sp": 0.0}
    groups = []
    for module, multiplier in zip(network.layers, recipe.layer_multipliers(len(network.layers)), strict=True):
        groups.append({"params": list(module.parameters()), "schedule": schedule(multiplier), **penalties})
    return [*groups, {"params": list(network.head.parameters()), "schedule": schedule(1.0), "l2_sp": 0.0}]


class _SupervisedGradients:
    """Writes the gradients of the cross-entropy of augmented batches of labelled images.

    Parameters
    ----------
    network : ConvNet
        Its parameters receive the gradients.
    train : Labelled
        The labelled images.
    recipe : Recipe
        Batch size, augmentation, label smoothing, and when the layers train.
    seed : int
        Names every draw.
    device : torch.device
        Where to compute.
    part : BatchPart
        Part of each batch that this process computes.
    """

    def __init__(
        self, network: ConvNet, train: Labelled, recipe: Recipe, seed: int, device: torch.device, part: BatchPart
    ):
        self.network, self.train, self.recipe, self.seed = network, train, recipe, seed
        self.device, self.part = device, part
        self.order = BatchOrder(len(train), recipe.batch_size, seed, "finetune")

    def __call__(self, step: int) -> Metrics:
        """Write the gradients of a step, counted from 0, and return the loss and the accuracy of its batch."""
        recipe = self.recipe
        set_trainable(self.network.layers, not recipe.freeze and step >= recipe.head_only_steps)
        with timed("data"):
            images, labels, targets = self.batch(step)
        dropout = self.network.head.get_submodule("dropout")
        assert isinstance(dropout, Dropout)
        draw = self.part.generator(self.seed, "finetune", "dropout", step, device=self.device)
        with timed("forward"), dropout.drawing(draw):
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
        with timed("backward"):
            loss.backward()
            accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
            return {"loss": float(loss.detach()), "accuracy": float(accuracy)}

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return augmented images, (N, C, H, W), their labels, (N,), and the targets of the loss.

        The targets are the labels or, if images are mixed, the share of each class, (N, classes).
        """
        positions, part = self.part.take(self.order(step)), self.part
        draw = part.generator(self.seed, "finetune", "augment", step, 0)
        images = random_crop(self.train.images[positions].to(self.device), self.recipe.crop, draw)
        images = random_flip(images, draw) if self.recipe.flip else images
        labels = self.train.labels[positions].to(self.device)
        if not self.recipe.mixup:
            return images, labels, labels
        # Each image may be mixed with any of the whole batch.
        images, partners, share = mixup(unit_range(part.gather(images)), self.recipe.mixup, draw)
        own = F.one_hot(part.gather(labels), len(self.network.classes)).float()
        return part.take(images), labels, part.take(torch.lerp(own[partners], own, share))
