"""Stopping a training run that fails, with a line that names the setting most likely at fault."""

import math
from collections.abc import Callable

import torch
from torch import nn

from pretrain.errors import UserError
from pretrain.stages.base import not_finite
from pretrain.training.metric_logging import LOG_EVERY
from pretrain.training.trainer import Callback, Metrics, Trainer

NOT_SAVED = "Weights that diverged are not saved, and an earlier checkpoint stays as it is."


class Diagnosis(Callback):
    """Check the metrics and the weights of training every so many steps, at both ends, and before each checkpoint.

    It comes before `MetricLogging` in the list of callbacks, so that metrics which are not numbers are not logged.

    Parameters
    ----------
    diagnose : callable
        Takes the metrics and the learning rate; returns what is wrong and what to change, or None if nothing is.
    every : int
        Steps from one check to the next.
    """

    def __init__(self, diagnose: Callable[[Metrics, float], str | None], every: int = LOG_EVERY):
        self.diagnose, self.every = diagnose, every

    def on_start(self, trainer: Trainer) -> None:
        """Raise a `UserError` if the weights to start from are no finite numbers."""
        require_finite(trainer.module, f"{trainer.name}, before step {trainer.step + 1}", "look at its inputs")

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Raise a `UserError` if training fails."""
        figures = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        where = f"{trainer.name}, step {trainer.step} ({figures})"
        # These metrics are those of the weights before the first update.
        if trainer.step == 1 and not_finite(metrics, 0.0):
            raise UserError(
                f"{where}: not a finite number before any update, so that a lower learning rate does not help: "
                "look for another setting of its own that is too large."
            )
        if trainer.is_due(trainer.step, self.every):
            if trouble := self.diagnose(metrics, trainer.training.learning_rate):
                raise UserError(f"{where}: {_decay_at_fault(trainer) or trouble}. {NOT_SAVED}")
            self._check_weights(trainer)

    def on_evaluation(self, trainer: Trainer, metrics: Metrics) -> None:
        """Raise a `UserError` if an evaluation gives what is no finite number."""
        if trouble := not_finite(metrics, trainer.training.learning_rate):
            figures = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items() if not math.isfinite(value))
            raise UserError(f"{trainer.name}, step {trainer.step} ({figures}): {trouble}. {NOT_SAVED}")

    def before_save(self, trainer: Trainer) -> None:
        """Raise a `UserError` if weights that are no finite numbers would be saved."""
        self._check_weights(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """Raise a `UserError` if training, which may have stopped early, ended with weights that are no numbers."""
        self._check_weights(trainer)

    def _check_weights(self, trainer: Trainer) -> None:
        advice = _decay_at_fault(trainer) or f"lower learning_rate={trainer.training.learning_rate:g}"
        require_finite(trainer.module, f"{trainer.name}, step {trainer.step}", f"{advice}. {NOT_SAVED}")


def require_finite(module: nn.Module, where: str, advice: str) -> None:
    """Raise a `UserError` with `advice` unless all parameters and buffers of a module are finite numbers."""
    for name, values in module.state_dict().items():
        if not torch.isfinite(values).all():
            raise UserError(f"{where}: {name} has values that are not finite numbers: {advice}")


def _decay_at_fault(trainer: Trainer) -> str | None:
    """Return a phrase that names weight decay where one update takes more than all of the weights away by itself."""
    rate, decay = trainer.training.learning_rate, trainer.training.weight_decay
    return f"lower weight_decay={decay:g}" if rate * decay > 1 and decay > rate else None
