"""Stopping a training run that fails, with a line that names the setting most likely at fault."""

from collections.abc import Callable

from pretrain.errors import UserError
from pretrain.training.metric_logging import LOG_EVERY
from pretrain.training.trainer import Callback, Metrics, Trainer


class Diagnosis(Callback):
    """Check the metrics of training every so many steps and after the last one.

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

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Raise a `UserError` if training fails."""
        if not trainer.is_due(trainer.step, self.every):
            return
        if trouble := self.diagnose(metrics, trainer.training.learning_rate):
            figures = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
            raise UserError(f"{trainer.name}, step {trainer.step} ({figures}): {trouble}.")
