"""The settings of the training of a stage, which fine-tuning shares."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pretrain.runs.setting_types import Count, In, NonNegative, OnlyWith, Share
from pretrain.runs.typed_settings import Settings

Momentum = Annotated[float, In(ge=0, le=0.9999)]


@dataclass(frozen=True)
class Training(Settings):
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

    steps: Count = 400
    batch_size: Count = 128
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: NonNegative = 1e-3
    momentum: Annotated[Momentum, OnlyWith("optimizer", "sgd")] = 0.9
    initial_momentum: Annotated[Momentum | None, OnlyWith("optimizer", "sgd")] = None
    nesterov: Annotated[bool, OnlyWith("optimizer", "sgd")] = True
    weight_decay: NonNegative = 0.0
    warmup: Share = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"

    @property
    def warmup_momentum(self) -> float:
        """Momentum of SGD during the warm-up."""
        return self.momentum if self.initial_momentum is None else self.initial_momentum

    def warmup_steps(self, steps: int) -> int:
        """Return how many of so many steps are the warm-up."""
        return math.ceil(self.warmup * steps)
