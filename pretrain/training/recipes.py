"""How to train: the settings of a stage's training, and of fine-tuning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.errors import UserError, choose, require_between
from pretrain.runs.typed_settings import settle, typed
from pretrain.stages.stack_settings import StackSettings

HEADS = ("random", "ridge", "logistic")  # ways to initialize the head


@dataclass(frozen=True)
class Training:
    """How long and how fast to learn.

    Attributes
    ----------
    steps : int
        Number of updates.
    batch_size : int
        Images per update. If there are fewer images, every update sees all of them.
    optimizer : {"sgd", "adamw"}
        SGD with momentum, or AdamW.
    learning_rate : float
        Highest learning rate of the schedule, at least 0.
    momentum : float
        Momentum of SGD, 0 to 0.9999.
    initial_momentum : float, optional
        Momentum of SGD during the warm-up (Hinton 2010, section 9.1). None: `momentum` throughout.
    nesterov : bool
        Whether SGD uses Nesterov's momentum (Sutskever et al. 2013).
    weight_decay : float
        L2 penalty with SGD; decoupled from the gradient with AdamW (Loshchilov and Hutter 2019). Biases are not
        decayed.
    warmup : float
        Share of the steps, 0 to 1, in which the learning rate rises linearly.
    schedule : {"cosine", "constant"}
        Learning rate after the warm-up: falling to zero (Loshchilov and Hutter 2017), or constant.

    Raises
    ------
    UserError
        When a value is out of range.
    """

    steps: int = 400
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    initial_momentum: float | None = None
    nesterov: bool = True
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: str = "cosine"

    @property
    def min_steps(self) -> int:
        """Least number of steps that makes sense."""
        return 1

    def __post_init__(self) -> None:
        """Check the values."""
        settle(self)
        choose("optimizer", self.optimizer, ("sgd", "adamw"))
        choose("schedule", self.schedule, ("cosine", "constant"))
        require_between("steps", self.steps, self.min_steps)
        require_between("batch_size", self.batch_size, 1)
        require_between("learning_rate", self.learning_rate, 0)
        require_between("momentum", self.momentum, 0, 0.9999)
        require_between("initial_momentum", self.warmup_momentum, 0, 0.9999)
        require_between("weight_decay", self.weight_decay, 0)
        require_between("warmup", self.warmup, 0, 1)

    @property
    def warmup_momentum(self) -> float:
        """Momentum of SGD during the warm-up."""
        return self.momentum if self.initial_momentum is None else self.initial_momentum

    def warmup_steps(self, steps: int) -> int:
        """Return how many of so many steps are the warm-up."""
        return math.ceil(self.warmup * steps)


@dataclass(frozen=True)
class Recipe(Training):
    """How to fine-tune the assembled network. What is not listed here is described in `Training`.

    Attributes
    ----------
    label_smoothing : float
        Share of each label, 0 to 1, that is spread over all classes (Szegedy et al. 2016).
    dropout : float
        Share of the head's inputs, 0 to 1, that is dropped in training.
    crop : int
        Shift each image at random by up to so many pixels, with its edges reflected. 0: no shifts.
    flip : bool
        Mirror half of the images left to right. Wrong for digits and text.
    mixup : float
        Learn from mixtures of two images, with shares drawn from Beta(mixup, mixup). 0: no mixtures. See
        `pretrain.data.augmentation.mixup`.
    l2_sp : float
        Hold the layers near the weights that they start from, instead of decaying them: each update moves them back by
        the share ``learning rate x l2_sp`` of the way. The head keeps `weight_decay`. See
        `pretrain.training.weight_penalties`.
    head : {"random", "ridge", "logistic"}
        How to initialize the head: at random, or by fitting it to the outputs of the layers. See
        `pretrain.evaluation.fitted_head`. With a fitted head and `freeze`, `steps` may be 0.
    freeze : bool
        Train the head only, and keep the layers as they are.
    head_steps : int
        Train only the head for so many of the steps; then train everything, with a new warm-up. Ignored with `freeze`.
    layer_rates : list of float or float
        Learning-rate multiplier of each layer, from the input upwards, or one for all. That of the head is 1.
    evaluate_every : int
        Steps from one evaluation on the validation images to the next.
    early_stopping : bool
        Stop when validation accuracy has not risen for `patience` evaluations, and go back to the best weights. The
        steps in which the head trains alone do not count.
    patience : int
        See `early_stopping`.

    Raises
    ------
    UserError
        When a value is out of range.
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
    def min_steps(self) -> int:
        """Least number of steps that makes sense: none for a fitted head on frozen layers, else one."""
        return 0 if self.freeze and self.head != "random" else 1

    @property
    def head_only_steps(self) -> int:
        """Number of steps before the layers start to train; 0 if they never train."""
        return 0 if self.freeze else self.head_steps

    def __post_init__(self) -> None:
        """Check the values."""
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
        """Raise a `UserError` if the recipe does not fit a network of so many layers, for images of shape (C, H, W)."""
        require_between("crop", self.crop, 0, min(image_shape[1:]) - 1)
        self.layer_multipliers(layers)

    def layer_multipliers(self, layers: int) -> list[float]:
        """Return the learning-rate multiplier of each of so many layers.

        Raises
        ------
        UserError
            When `layer_rates` has another number of layers, or `l2_sp` would move layers beyond where they start.
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


def stage_trainings(stack: StackSettings) -> list[Training]:
    """Return how each stage of a stack is trained, from the input upwards.

    Raises
    ------
    UserError
        When a setting is unknown or wrong; its path in the configuration is named.
    """
    return [
        typed(Training, settings.get("training", {}), f"stack.stages.{name}.training")
        for name, settings in stack.stages.items()
    ]


def check_stack_settings(stack: StackSettings, image_shape: tuple[int, int, int]) -> None:
    """Raise a `UserError` when a layer or its training has a wrong setting, or a layer does not fit the images."""
    stack.layer_rows(image_shape, classes=2)
    stage_trainings(stack)
