"""Learning rate and momentum over the steps."""

import math
from dataclasses import dataclass

import torch

from pretrain.training.recipes import Training


def schedule_factor(step: int, training: Training, steps: int) -> float:
    """Return the share of the full learning rate, in (0, 1], at `step` of `steps`, counted from 0."""
    warmup = training.warmup_steps(steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if training.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum of a group of parameters at each step.

    Attributes
    ----------
    training : Training
        Steps, rate, momentum and shape of the schedule.
    multiplier : float
        Multiplies the learning rate.
    first_phase : int
        Number of steps that run through the whole schedule by themselves. The remaining steps run through it again.
    """

    training: Training
    multiplier: float = 1.0
    first_phase: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate at a step, counted from 0."""
        place, steps = self._phase(step)
        return self.training.learning_rate * self.multiplier * schedule_factor(place, self.training, steps)

    def momentum(self, step: int) -> float:
        """Return the momentum of SGD at a step, counted from 0."""
        place, steps = self._phase(step)
        warming_up = place < self.training.warmup_steps(steps)
        return self.training.warmup_momentum if warming_up else self.training.momentum

    def _phase(self, step: int) -> tuple[int, int]:
        """Return how many steps of its phase come before this one, and how many steps the phase has."""
        if step < self.first_phase:
            return step, self.first_phase
        return step - self.first_phase, self.training.steps - self.first_phase


def apply_schedules(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Set the learning rate, and the momentum of SGD, of each group of parameters for a step."""
    for group in optimizer.param_groups:
        group["lr"] = group["schedule"].rate(step)
        if "momentum" in group:
            group["momentum"] = group["schedule"].momentum(step)
