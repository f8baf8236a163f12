"""Training an assembled ConvNet end to end on the labels there are."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from pretrain.data import Dataset
from pretrain.data.augmentation import mixup, random_crop, random_flip
from pretrain.data.splits import label_subset
from pretrain.device import Device
from pretrain.errors import UserError, choose, require_between
from pretrain.evaluation import Evaluation, evaluate
from pretrain.heads import HEADS, FittedHead, fit_head
from pretrain.network import ConvNet, set_trainable
from pretrain.preprocessing import unit_range
from pretrain.runs import RunFolder
from pretrain.seeding import generator
from pretrain.stages import Metrics
from pretrain.training import BatchOrder, Loop, Optimisation, Schedule, build_optimizer, share_out


@dataclass
class Finetuning(Optimisation):
    """How to train the assembled network; the rest is as in `Optimisation`.

    Attributes
    ----------
    label_smoothing : float
        Share of each label spread over all classes (Szegedy et al. 2016).
    dropout : float
        Share of the head's inputs dropped while training.
    crop : int
        Random shifts by up to so many pixels, edges reflected; 0 for none.
    flip : bool
        Mirror half of the images left to right; wrong for digits and text.
    mixup : float
        Learn from mixtures of two images, their shares drawn from Beta(mixup, mixup); 0 for none. See
        `pretrain.data.augmentation.mixup`.
    l2_sp : float
        Hold the layers to the weights that they start from, in place of `weight_decay`, which the head keeps: each
        update moves them back by the share ``learning rate x l2_sp`` of the way. See `towards_start`.
    head : {"random", "ridge", "logistic"}
        Where the head starts: at random; or fitted to the outputs of the layers as they are, see `pretrain.heads`.
        With `freeze`, `steps` may be 0 then.
    freeze : bool
        Train the head only: the layers stay as they are.
    head_steps : int
        First so many of the steps train the head only; then all learn, with a new warm-up. Nothing with `freeze`.
    layer_rates : list of float or float
        Learning-rate multiplier of each layer, from the input upwards, or one for all. The head's is 1.
    evaluate_every : int
        Steps from one validation to the next.
    early_stopping : bool
        Stop when validation accuracy has not risen for `patience` validations, of those in which all learn that is
        to, and go back to the best.
    patience : int
        See `early_stopping`.
    """

    steps: int = 1000
    batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.02
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    dropout: float = 0.5
    crop: int = 4
    flip: bool = True
    mixup: float = 0.0
    l2_sp: float = 0.0
    head: str = "random"
    freeze: bool = False
    head_steps: int = 0
    layer_rates: Any = 1.0
    evaluate_every: int = 200
    early_stopping: bool = False
    patience: int = 5

    @property
    def fewest_steps(self) -> int:
        """A head that is fitted, on layers that are frozen, needs no training."""
        return 0 if self.freeze and self.head != "random" else 1

    @property
    def alone(self) -> int:
        """Steps in which the head learns alone before the layers join it: none where they never do."""
        return 0 if self.freeze else self.head_steps

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        super().__post_init__()
        choose("head", self.head, HEADS)
        require_between("head_steps", self.head_steps, 0, math.inf if self.freeze else self.steps - 1)
        require_between("label_smoothing", self.label_smoothing, 0, 1)
        require_between("dropout", self.dropout, 0, 1)
        require_between("crop", self.crop, 0)
        require_between("mixup", self.mixup, 0)
        require_between("l2_sp", self.l2_sp, 0)
        require_between("evaluate_every", self.evaluate_every, 1)
        require_between("patience", self.patience, 1)

    def check_network(self, layers: int, image_shape: Sequence[int]) -> None:
        """Raise a `UserError` when the settings do not fit a network of so many layers, for images (C, H, W)."""
        require_between("crop", self.crop, 0, min(image_shape[1:]) - 1)
        self.multipliers(layers)

    def multipliers(self, layers: int) -> list[float]:
        """Return the learning-rate multiplier of each of so many layers.

        Raises
        ------
        UserError
            When there is not one for each, or layers would be moved beyond where they start.
        """
        given = self.layer_rates
        multipliers = [given] * layers if isinstance(given, int | float) else given
        numbers = isinstance(multipliers, list) and all(isinstance(m, int | float) and m >= 0 for m in multipliers)
        if not numbers or len(multipliers) != layers:
            raise UserError(f"layer_rates={given}: there are {layers} layers; give a number for each, or one for all.")
        if (share := self.learning_rate * self.l2_sp * max(multipliers)) > 1:
            raise UserError(
                f"l2_sp={self.l2_sp:g} with learning_rate={self.learning_rate:g} moves layers by {share:.0%} of "
                "the way back to their start in one update: give a smaller one."
            )
        return multipliers


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


def finetune(
    network: ConvNet,
    data: Dataset,
    *,
    labels: int | None = None,
    seed: int = 0,
    settings: Finetuning | None = None,
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
    settings : Finetuning, optional
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
    settings = settings or Finetuning()
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
        raise UserError("finetuning.early_stopping needs validation images: give data.validation more than 0.")
    optimizer = build_optimizer(_parameter_groups(network, settings), settings)
    loop = Loop(
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


def _parameter_groups(network: ConvNet, settings: Finetuning) -> list[dict[str, Any]]:
    """Return a group for each layer and one for the head, each with its learning rate as a function of the step."""
    multipliers = settings.multipliers(len(network.layers))
    schedule = partial(Schedule, settings, first=settings.alone)
    layers = {"l2_sp": settings.l2_sp, **({"weight_decay": 0.0} if settings.l2_sp else {})}
    groups = []
    for module, multiplier in zip(network.layers, multipliers, strict=True):
        groups.append({"params": list(module.parameters()), "schedule": schedule(multiplier), **layers})
    return [*groups, {"params": list(network.head.parameters()), "schedule": schedule(1.0), "l2_sp": 0.0}]


def towards_start(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return what pulls parameters towards where they are now, after an update: ``w <- w - lr l2_sp (w - start)``.

    This is L2-SP, the penalty ``l2_sp / 2 ||w - start||^2``, decoupled from the gradient as AdamW's weight decay is.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Each of its groups has a strength, "l2_sp", and a learning rate, "lr".

    References
    ----------
    Li, Grandvalet and Davoine (2018), Explicit inductive bias for transfer learning with convolutional networks.
    ICML.
    """
    starts = [[parameter.detach().clone() for parameter in group["params"]] for group in optimizer.param_groups]

    @torch.no_grad()
    def pull() -> None:
        for group, start in zip(optimizer.param_groups, starts, strict=True):
            for parameter, began in zip(group["params"], start, strict=True):
                parameter.lerp_(began, group["lr"] * group["l2_sp"])

    return pull
