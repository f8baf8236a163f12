"""Evaluating a module while it trains."""

from collections.abc import Callable

from pretrain.training.trainer import Callback, Metrics, Trainer


class PeriodicEvaluation(Callback):
    """Evaluate the module every so many steps and after the last one, and tell the other callbacks.

    Parameters
    ----------
    evaluate : callable
        Returns metrics of the module as it stands, in eval mode.
    every : int
        Steps from one evaluation to the next.
    """

    def __init__(self, evaluate: Callable[[], Metrics], every: int):
        self.evaluate, self.every = evaluate, every

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Evaluate, if this step is one after which to do so."""
        if trainer.is_due(trainer.step, self.every):
            trainer.notify("on_evaluation", self.measure(trainer))

    def measure(self, trainer: Trainer) -> Metrics:
        """Return the metrics of the module as it stands."""
        trainer.module.eval()
        # Where processes rounded differently, all decide by the figures of the first.
        metrics = trainer.fabric.broadcast(self.evaluate())
        trainer.module.train()
        return metrics
