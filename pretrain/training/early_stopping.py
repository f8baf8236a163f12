"""Early stopping: keep the best weights, and stop once they have not been beaten for a while."""

import copy
import math
from typing import Any

from torch import Tensor

from pretrain.training.periodic_evaluation import PeriodicEvaluation
from pretrain.training.trainer import Callback, Metrics, Trainer


class EarlyStopping(Callback):
    """Stop once a metric has not risen for `patience` evaluations, and go back to the weights of its best value.

    The weights before the first step take part, since training may make them worse.

    Parameters
    ----------
    evaluation : PeriodicEvaluation
        Another callback of the same trainer, which measures the metric.
    metric : str
        Name of a metric of the evaluation; higher is better.
    patience : int
        Evaluations without a rise, at least 1.
    impatient_from : int
        Step from which the wait is counted.

    Attributes
    ----------
    best_value, best_step, best_state
        The highest value of the metric, the step it was measured after, and the module's state then.
    """

    def __init__(self, evaluation: PeriodicEvaluation, metric: str, patience: int, impatient_from: int = 0):
        self.evaluation, self.metric = evaluation, metric
        self.patience, self.impatient_from = patience, impatient_from
        self.best_value, self.best_step = -math.inf, 0
        self.best_state: dict[str, Tensor] | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Measure the weights that training starts from."""
        if trainer.step == 0:
            self.on_evaluation(trainer, self.evaluation.measure(trainer))

    def on_evaluation(self, trainer: Trainer, metrics: Metrics) -> None:
        """Keep a copy of the weights that are the best so far."""
        if metrics[self.metric] > self.best_value:
            self.best_value, self.best_step = metrics[self.metric], trainer.step
            self.best_state = copy.deepcopy(trainer.module.state_dict())

    def should_stop(self, trainer: Trainer) -> bool:
        """Return whether patience has run out."""
        waited = trainer.step - max(self.best_step, self.impatient_from)
        return waited >= self.patience * self.evaluation.every

    def on_end(self, trainer: Trainer) -> None:
        """Go back to the best weights."""
        if self.best_state is not None:
            trainer.module.load_state_dict(self.best_state)

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far."""
        return {"best_value": self.best_value, "best_step": self.best_step, "best_state": self.best_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the best so far of an interrupted run."""
        self.best_value, self.best_step = state["best_value"], state["best_step"]
        self.best_state = state["best_state"]
