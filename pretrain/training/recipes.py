"""How long and how fast to learn: the settings of a stage's training, and of fine-tuning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.errors import UserError, choose, require_between
from pretrain.evaluation.fitted_head import HEADS


@dataclass
class Training:
    """How long and how fast to learn.

    Attributes
    ----------
    steps : int
        Updates.
    batch_size : int
        Images an update; all of them where there are fewer.
    optimizer : str
        "sgd" (with momentum, Nesterov's where asked) or "adamw".
    learning_rate : float
        The highest of the schedule.
    momentum : float
        Of SGD.
    initial_momentum : float, optional
        Of SGD during the warm-up (Hinton 2010, section 9.1); None for `momentum` throughout.
    nesterov : bool
        Nesterov's momentum (Sutskever et al. 2013).
    weight_decay : float
        L2 penalty for SGD; decoupled for AdamW (Loshchilov and Hutter 2019). Biases are not decayed.
    warmup : float
        Share of the steps in which the rate rises linearly.
    schedule : str
        "cosine" (Loshchilov and Hutter 2017, to zero) or "constant", after the warm-up.
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
    def fewest_steps(self) -> int:
        """How few steps make sense."""
        return 1

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        choose("optimizer", self.optimizer, ("sgd", "adamw"))
        choose("schedule", self.schedule, ("cosine", "constant"))
        require_between("steps", self.steps, self.fewest_steps)
        require_between("batch_size", self.batch_size, 1)
        require_between("learning_rate", self.learning_rate, 0)
        require_between("momentum", self.momentum, 0, 0.9999)
        require_between("initial_momentum", self.first_momentum, 0, 0.9999)
        require_between("weight_decay", self.weight_decay, 0)
        require_between("warmup", self.warmup, 0, 1)

    @property
    def first_momentum(self) -> float:
        """Momentum of the warm-up."""
        return self.momentum if self.initial_momentum is None else self.initial_momentum

    def warm_steps(self, steps: int) -> int:
        """Return how many of the steps are the warm-up."""
        return math.ceil(self.warmup * steps)


@dataclass
class Recipe(Training):
    """How to train the assembled network; the rest is as in `Training`.

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
