"""Learning rate and momentum over the steps."""

import math
from dataclasses import dataclass

from pretrain.training.recipes import Training


def schedule_factor(step: int, settings: Training, steps: int) -> float:
    """Return what the learning rate is multiplied by at `step` of `steps`, counted from 0: in (0, 1]."""
    warm = settings.warm_steps(steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum of a group of parameters at each step.

    Attributes
    ----------
    settings : Training
        Of the run.
    multiplier : float
        Of the learning rate.
    first : int
        So many steps are a phase of their own, from warm-up to the end of the schedule, and the rest are another.
    """

    settings: Training
    multiplier: float = 1.0
    first: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate."""
        return self.settings.learning_rate * self.multiplier * schedule_factor(*self._place(step))

    def momentum(self, step: int) -> float:
        """Return SGD's momentum."""
        place, settings, steps = self._place(step)
        return settings.first_momentum if place < settings.warm_steps(steps) else settings.momentum

    def _place(self, step: int) -> tuple[int, Training, int]:
        """Return where in its phase a step is, and of how many."""
        if step < self.first:
            return step, self.settings, self.first
        return step - self.first, self.settings, self.settings.steps - self.first
