"""The training loop, which stages and fine-tuning share."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import nn

from pretrain.errors import UserError
from pretrain.runs.interruption import ask_to_stop, deferred_signals, signal_heard, stop_if_asked
from pretrain.runs.profiling import Part, timed
from pretrain.runs.progress import Progress
from pretrain.runs.seeding import derive_seed, seed_global_generators, seeded
from pretrain.training.data_parallel import average_gradients, average_metrics
from pretrain.training.recipes import Training
from pretrain.training.schedules import apply_schedules

Metrics = Mapping[str, float]


@dataclass(kw_only=True)
class Trainer:
    """One training run of a module: `fit` is the loop, `take_step` is one step.

    Attributes
    ----------
    name : str
        Phase of the run. It names the random draws and the rows of the log.
    module : nn.Module
        What learns.
    optimizer : torch.optim.Optimizer
        Over the parameters of `module`. Each group has a "schedule", a `Schedule`.
    training : Training
        Steps and batch size.
    compute_gradients : callable
        Takes the step, counted from 0, writes the gradients, and returns scalar metrics.
    seed : int
        Seed of the run.
    fabric : Fabric
        Device, precision and processes.
    callbacks : sequence of Callback
        Called in this order.
    constrain : callable, optional
        Changes the parameters after each update, such as a projection or a decoupled penalty.
    step : int
        Steps done.
    seconds : float
        Time spent on the steps. Evaluation, logging and checkpoints are not counted.
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    training: Training
    compute_gradients: Callable[[int], Metrics]
    seed: int
    fabric: Fabric
    callbacks: Sequence["Callback"] = ()
    constrain: Callable[[], None] | None = None
    step: int = 0
    seconds: float = 0.0

    def fit(self) -> None:
        """Train until the last step, or until a callback asks to stop.

        A signal that ends the process takes effect between two steps, after checkpoints are saved.
        """
        try:
            self._fit()
        except BaseException:
            # An interruption ends the training as well.
            self.notify("on_abort")
            raise

    def _fit(self) -> None:
        self.module.train()
        self.notify("on_start")
        # Several processes have to end at the same step.
        several = self.fabric.world_size > 1
        with self._progress() as progress, seeded(self.seed, self.name), deferred_signals(together=several):
            while self.step < self.training.steps and not self._should_stop():
                self.notify("before_step")
                stop_if_asked()
                metrics = self.take_step()
                self.notify("after_step", metrics)
                with timed("logging"):
                    progress.update(self.step, ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        self.notify("on_end")

    def take_step(self) -> Metrics:
        """Compute the gradients of one batch, update the parameters, and return the metrics of the batch."""
        started = time.monotonic()
        # What a stage draws may take no generator, so each step seeds the global one by its name.
        names = self.name, "step", self.step, 0
        seed_global_generators(derive_seed(self.seed, *names), self.fabric.device)
        with timed("optimizer"):
            apply_schedules(self.optimizer, self.step)
            self.optimizer.zero_grad(set_to_none=True)
        with self.fabric.autocast():
            metrics = self.compute_gradients(self.step)
        average_gradients(self.module, self.fabric)
        metrics, received = average_metrics(metrics, signal_heard(), self.fabric)
        ask_to_stop(received)
        with timed("optimizer"):
            self._update()
        self.step += 1
        self.seconds += time.monotonic() - started
        return metrics

    def _update(self) -> None:
        """Update the parameters by their gradients, within their constraints."""
        try:
            self.optimizer.step()
            if self.constrain:
                self.constrain()
        except RuntimeError as error:
            # torch raises this where a factor, such as the learning rate over AdamW's correction, exceeds float32.
            if "without overflow" not in str(error):
                raise
            rate, decay = self.training.learning_rate, self.training.weight_decay
            raise UserError(
                f"{self.name}, step {self.step + 1}: learning_rate={rate:g} and weight_decay={decay:g} make an update "
                "too large for a 32-bit number: lower them."
            ) from None

    def notify(self, hook: str, *arguments: Any) -> None:
        """Call one hook of every callback."""
        for callback in self.callbacks:
            with timed(callback.timed_as):
                getattr(callback, hook)(self, *arguments)

    def is_due(self, step: int, every: int) -> bool:
        """Return whether what happens every so many steps, and after the last one, happens after this step."""
        return step % every == 0 or step == self.training.steps

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: tensors and plain values."""
        self.notify("before_save")
        return {
            "phase": self.name,
            "step": self.step,
            "seconds": self.seconds,
            "module": self.module.state_dict(),
            # The keys of a saved state are text.
            "optimizer": {str(key): value for key, value in self.optimizer.state_dict()["state"].items()},
            "callbacks": {type(callback).__name__: callback.state_dict() for callback in self.callbacks},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where an interrupted run was."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.module.load_state_dict(state["module"])
        # The groups are not in the state: the recipe makes them, with schedules that are no plain values.
        groups = self.optimizer.state_dict()["param_groups"]
        moments = {int(key): value for key, value in state["optimizer"].items()}
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        for callback in self.callbacks:
            callback.load_state_dict(state["callbacks"].get(type(callback).__name__, {}))

    def _should_stop(self) -> bool:
        with timed("checks"):
            return any(callback.should_stop(self) for callback in self.callbacks)

    def _progress(self) -> Progress:
        return Progress(
            self.name,
            self.training.steps,
            initial=self.step,
            unit="images",
            per_step=self.training.batch_size,
            shown=self.fabric.global_rank == 0,
        )


class Callback:
    """Something that a trainer does besides learning. Each hook does nothing unless overridden.

    A trainer calls its callbacks in their order. Their time is not counted as training time.

    Attributes
    ----------
    timed_as : str
        The part of a profiled run that the time of the hooks belongs to, of `pretrain.runs.profiling.PARTS`.
    """

    timed_as: ClassVar[Part] = "checks"

    def on_start(self, trainer: Trainer) -> None:
        """Act once, before the first step."""

    def before_step(self, trainer: Trainer) -> None:
        """Act before each step; ``trainer.step`` steps are done."""

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Act on the training metrics of the step just done, which is number ``trainer.step``."""

    def on_evaluation(self, trainer: Trainer, metrics: Metrics) -> None:
        """Act on the metrics of an evaluation, which `PeriodicEvaluation` announces."""

    def before_save(self, trainer: Trainer) -> None:
        """Act before the state of the trainer is saved."""

    def should_stop(self, trainer: Trainer) -> bool:
        """Return whether to stop instead of taking another step."""
        return False

    def on_end(self, trainer: Trainer) -> None:
        """Act once, after the last step."""

    def on_abort(self, trainer: Trainer) -> None:
        """Act once, when an error or an interruption ends the training."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs of this callback: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an interrupted run."""
