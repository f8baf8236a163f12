"""The one training loop, for stages and fine-tuning."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.runs.progress import Progress
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.seeding import derive_seed, seeded
from pretrain.stages.base import Metrics, not_finite
from pretrain.training.recipes import Training

LOG_EVERY = 20  # steps
CHECKPOINT_EVERY = 30.0  # seconds


@torch.no_grad()
def _update_ratio(before: list[tuple[nn.Parameter, Tensor]]) -> float:
    """Return the norm of the last update over that of the weights that learned; which do is known after the step."""
    learned = [(old, parameter - old) for parameter, old in before if parameter.requires_grad]
    weights, update = (torch.cat([part.flatten() for part in parts]) for parts in zip(*learned, strict=True))
    return float(update.norm() / weights.norm())


@dataclass
class Trainer:
    """One training run of a module.

    Attributes
    ----------
    name : str
        Phase of the run, in its log and its random draws.
    module : nn.Module
        What learns; its state goes into the checkpoints.
    optimizer : torch.optim.Optimizer
        Over its parameters. Each group has a "schedule", a `Schedule`.
    settings : Training
        Steps and batch size.
    compute_gradients : callable
        Takes the step, writes the gradients, returns scalar metrics.
    seed : int
        The run's.
    fabric : Fabric
        Device, precision, processes.
    folder : RunFolder, optional
        Where to log and keep checkpoints.
    constrain : callable, optional
        Puts parameters back where they may be, or pulls them there, after each update.
    diagnose : callable
        Takes the metrics and the learning rate, and says what is wrong, or None while training goes well; asked
        whenever metrics are logged.
    evaluate : callable, optional
        Returns metrics of the module as it stands; its time is not counted.
    evaluate_every : int
        Steps from one evaluation to the next; the last step has one in any case.
    best : str, optional
        A metric of `evaluate`: stop once it has not risen for `patience` evaluations, and go back to its best.
    patience : int
        See `best`.
    impatient_from : int
        The step from which on a rise is waited for.
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    settings: Training
    compute_gradients: Callable[[int], Metrics]
    seed: int
    fabric: Fabric
    folder: RunFolder | None = None
    constrain: Callable[[], None] | None = None
    diagnose: Callable[[Metrics, float], str | None] = not_finite
    evaluate: Callable[[], Metrics] | None = None
    evaluate_every: int = 100
    best: str | None = None
    patience: int = 5
    impatient_from: int = 0
    step: int = 0
    seconds: float = 0.0
    best_value: float = -math.inf
    best_step: int = 0
    best_state: dict[str, Tensor] | None = None

    def run(self) -> None:
        """Learn until the last step, from the last checkpoint on where there is one."""
        self._resume()
        saved = time.monotonic()
        shown = self.fabric.global_rank == 0
        size = self.settings.batch_size
        progress = Progress(
            self.name, self.settings.steps, initial=self.step, unit="images", per_step=size, shown=shown
        )
        with progress, seeded(self.seed, self.name):
            if self.best and self.step == 0:
                self._measure()  # to go back to, where all that follows is worse
            while self.step < self.settings.steps and not self._stale():
                last = self.step + 1 == self.settings.steps
                logged = last or (self.step + 1) % LOG_EVERY == 0
                before = self._weights() if logged else None
                metrics = self._timed_step()
                self.step += 1
                if before is not None:
                    self._check(metrics)
                    self._log({**metrics, "update_ratio": _update_ratio(before)})
                if self.evaluate and (last or self.step % self.evaluate_every == 0):
                    self._evaluate()
                progress.update(self.step, ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
                if not last and time.monotonic() - saved > CHECKPOINT_EVERY:
                    self._save()
                    saved = time.monotonic()
        if self.best_state is not None:
            self.module.load_state_dict(self.best_state)

    def _timed_step(self) -> Metrics:
        started = time.monotonic()
        # Dropout and the like take no generator: each step seeds the global one by its name.
        torch.manual_seed(derive_seed(self.seed, self.name, "step", self.step, self.fabric.global_rank))
        for group in self.optimizer.param_groups:
            group["lr"] = group["schedule"].rate(self.step)
            if "momentum" in group:
                group["momentum"] = group["schedule"].momentum(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with self.fabric.autocast():
            metrics = self.compute_gradients(self.step)
        if self.fabric.world_size > 1:
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    mean = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
                    assert isinstance(mean, Tensor)
                    parameter.grad.copy_(mean)
        self.optimizer.step()
        if self.constrain:
            self.constrain()
        self.seconds += time.monotonic() - started
        return metrics

    def _weights(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Return all parameters but biases, each with a copy of what it is now."""
        return [(p, p.detach().clone()) for p in self.module.parameters() if p.ndim > 1]

    def _check(self, metrics: Metrics) -> None:
        if trouble := self.diagnose(metrics, self.settings.learning_rate):
            figures = ", ".join(f"{k} {v:.3g}" for k, v in metrics.items())
            raise UserError(f"{self.name}, step {self.step} ({figures}): {trouble}.")

    def _log(self, metrics: Metrics) -> None:
        if self.folder:
            self.folder.log({"phase": self.name, "step": self.step, "seconds": round(self.seconds, 3), **metrics})

    def _evaluate(self) -> None:
        self._log(self._measure())

    def _measure(self) -> Metrics:
        """Evaluate the module as it stands, and keep it if it is the best so far."""
        assert self.evaluate
        self.module.eval()
        metrics = self.evaluate()
        self.module.train()
        if self.best and metrics[self.best] > self.best_value:
            self.best_value, self.best_step = metrics[self.best], self.step
            self.best_state = copy.deepcopy(self.module.state_dict())
        return metrics

    def _stale(self) -> bool:
        waited = self.step - max(self.best_step, self.impatient_from)
        return self.best is not None and waited >= self.patience * self.evaluate_every

    def _save(self) -> None:
        if self.folder:
            self.folder.save(
                "checkpoint.pt",
                {
                    "phase": self.name,
                    "module": self.module.state_dict(),
                    "optimizer": {
                        "state": self.optimizer.state_dict()["state"],
                    },
                    "progress": {
                        name: getattr(self, name)
                        for name in ("step", "seconds", "best_value", "best_step", "best_state")
                    },
                },
            )

    def _resume(self) -> None:
        self.module.train()
        checkpoint = self.folder.load("checkpoint.pt") if self.folder else None
        if checkpoint and checkpoint["phase"] == self.name:
            self.module.load_state_dict(checkpoint["module"])
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({**checkpoint["optimizer"], "param_groups": groups})
            for name, value in checkpoint["progress"].items():
                setattr(self, name, value)
        if self.folder:
            self.folder.rewind(self.name, self.step)
