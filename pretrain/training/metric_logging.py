"""Writing the metrics of a training run to its log, metrics.jsonl."""

import torch
from torch import Tensor, nn

from pretrain.runs.run_folder import RunFolder
from pretrain.training.trainer import Callback, Metrics, Trainer

LOG_EVERY = 20  # steps


class MetricLogging(Callback):
    """Log the metrics of training every so many steps and after the last one, and those of every evaluation.

    Training metrics are logged with "update_ratio", the norm of the last update over the norm of the weights before it.

    Parameters
    ----------
    folder : RunFolder
        Holds metrics.jsonl.
    every : int
        Steps from one row of training metrics to the next.
    """

    timed_as = "logging"

    def __init__(self, folder: RunFolder, every: int = LOG_EVERY):
        self.folder, self.every = folder, every
        self.weights: list[tuple[nn.Parameter, Tensor]] = []

    def before_step(self, trainer: Trainer) -> None:
        """Copy the weights before a step that will be logged."""
        if trainer.is_due(trainer.step + 1, self.every):
            self.weights = [(p, p.detach().clone()) for p in trainer.module.parameters() if p.ndim > 1]

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Log the metrics of training, if this step is one of those to log."""
        if trainer.is_due(trainer.step, self.every):
            self._log(trainer, {**metrics, "update_ratio": update_ratio(self.weights)})
            self.weights = []

    def on_evaluation(self, trainer: Trainer, metrics: Metrics) -> None:
        """Log the metrics of an evaluation."""
        self._log(trainer, metrics)

    def _log(self, trainer: Trainer, metrics: Metrics) -> None:
        row = {"phase": trainer.name, "step": trainer.step, "seconds": round(trainer.seconds, 3), **metrics}
        self.folder.log(row)


@torch.no_grad()
def update_ratio(weights: list[tuple[nn.Parameter, Tensor]]) -> float:
    """Return the norm of the last update over the norm of the weights before it, biases aside.

    Each parameter comes with a copy from before the update. Those that did not learn in this step are left out; which
    these are is known only after the step.
    """
    learned = [(old, parameter - old) for parameter, old in weights if parameter.requires_grad]
    before, update = (torch.cat([part.flatten() for part in parts]) for parts in zip(*learned, strict=True))
    # All weights may be zero, as those of a head that is fitted to constants.
    return float(update.norm() / before.norm().clamp(min=torch.finfo(before.dtype).tiny))
