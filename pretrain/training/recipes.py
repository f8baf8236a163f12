"""The settings of fine-tuning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pretrain.errors import UserError
from pretrain.runs.setting_types import Count, FromZero, In, NonNegative, OnlyWith, Share
from pretrain.runs.typed_settings import gathered
from pretrain.stages.training_settings import Training

# A share of Beta(mixup, mixup) is 0 or 1 far below this, and no mixture.
LEAST_MIXUP = 0.01


@dataclass(frozen=True)
class Recipe(Training):
    """How to fine-tune the assembled network. What is not listed here is described in `Training`.

    Attributes
    ----------
    label_smoothing : float
        Share of each label, 0 to 1, that is spread over all classes (Szegedy et al. 2016).
    dropout : float
        Share of the head's inputs that is dropped in training.
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

    steps: FromZero = 1000
    batch_size: Count = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: NonNegative = 0.02
    weight_decay: NonNegative = 5e-4
    label_smoothing: Share = 0.1
    dropout: Annotated[float, In(ge=0, lt=1)] = 0.5
    crop: FromZero = 4
    flip: bool = True
    mixup: Literal[0] | Annotated[float, In(ge=LEAST_MIXUP)] = 0.0  # type: ignore[assignment]
    l2_sp: Annotated[NonNegative, OnlyWith("freeze", False)] = 0.0
    head: Literal["random", "ridge", "logistic"] = "random"
    freeze: bool = False
    head_steps: Annotated[FromZero, OnlyWith("freeze", False)] = 0
    layer_rates: Annotated[NonNegative | list[NonNegative], OnlyWith("freeze", False)] = 1.0
    evaluate_every: Count = 200
    early_stopping: bool = False
    patience: Annotated[Count, OnlyWith("early_stopping", True)] = 5

    @property
    def head_only_steps(self) -> int:
        """Number of steps before the layers start to train; 0 if they never train."""
        return 0 if self.freeze else self.head_steps

    def stretched(self, factor: float) -> "Recipe":
        """Return the recipe with this multiple of its steps, over which its whole schedule is stretched."""
        steps, head_steps, every = (round(factor * n) for n in (self.steps, self.head_steps, self.evaluate_every))
        return replace(self, steps=steps, head_steps=head_steps, evaluate_every=max(1, every))

    def contradictions(self) -> Iterator[str]:
        """Yield a line when there are too few steps for what they are to do."""
        if self.steps == 0 and not (self.freeze and self.head != "random"):
            yield "steps=0: nothing would learn; steps may be 0 only with freeze=true and head=ridge or logistic."
        elif not self.freeze and self.head_steps >= max(self.steps, 1):
            yield f"head_steps={self.head_steps}: it must be less than steps={self.steps}, so that the layers train."

    def check_network(self, layers: int, image_shape: Sequence[int]) -> None:
        """Raise a `UserError` if the recipe does not fit a network of so many layers, for images of shape (C, H, W)."""
        side = min(image_shape[1:])
        with gathered() as problems:
            if self.crop >= side:
                problems.append(f"crop={self.crop}: it must be from 0 to {side - 1}, for images of side {side}.")
            self.layer_multipliers(layers)

    def layer_multipliers(self, layers: int) -> list[float]:
        """Return the learning-rate multiplier of each of so many layers.

        Raises
        ------
        UserError
            When `layer_rates` has another number of layers, or `l2_sp` would move layers beyond where they start.
        """
        given = self.layer_rates
        multipliers = [given] * layers if isinstance(given, float) else given
        if len(multipliers) != layers:
            raise UserError(f"layer_rates={given}: there are {layers} layers; give a number for each, or one for all.")
        if (share := self.learning_rate * self.l2_sp * max(multipliers)) > 1:
            raise UserError(
                f"l2_sp={self.l2_sp:g} with learning_rate={self.learning_rate:g} moves layers by {share:.0%} of "
                "the way back to their start in one update: give a smaller one."
            )
        return multipliers
