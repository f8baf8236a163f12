"""The one training loop: batches, optimiser, schedule, clock, log and checkpoints, for stages and fine-tuning."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.errors import UserError, choose, require_between
from pretrain.progress import Progress
from pretrain.runs import RunFolder
from pretrain.seeding import derive_seed, generator, seeded
from pretrain.stages.base import Metrics, not_finite

LOG_EVERY = 20  # steps
CHECKPOINT_EVERY = 30.0  # seconds


@dataclass
class Optimisation:
    """How long and how fast to learn.

    Attributes
    ----------
    steps : int
        Updates.
    batch_size : int
        Images an update; all of them where there are fewer.
    optimizer : str
        "sgd" (with momentum, Nesterov's where asked) or "adamw".
    learning_rate : float
        The highest of the schedule.
    momentum : float
        Of SGD.
    initial_momentum : float, optional
        Of SGD during the warm-up (Hinton 2010, section 9.1); None for `momentum` throughout.
    nesterov : bool
        Nesterov's momentum (Sutskever et al. 2013).
    weight_decay : float
        L2 penalty for SGD; decoupled for AdamW (Loshchilov and Hutter 2019). Biases are not decayed.
    warmup : float
        Share of the steps in which the rate rises linearly.
    schedule : str
        "cosine" (Loshchilov and Hutter 2017, to zero) or "constant", after the warm-up.
    """

    steps: int = 400
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    initial_momentum: float | None = None
    nesterov: bool = True
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: str = "cosine"

    @property
    def fewest_steps(self) -> int:
        """How few steps make sense."""
        return 1

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        choose("optimizer", self.optimizer, ("sgd", "adamw"))
        choose("schedule", self.schedule, ("cosine", "constant"))
        require_between("steps", self.steps, self.fewest_steps)
        require_between("batch_size", self.batch_size, 1)
        require_between("learning_rate", self.learning_rate, 0)
        require_between("momentum", self.momentum, 0, 0.9999)
        require_between("initial_momentum", self.first_momentum, 0, 0.9999)
        require_between("weight_decay", self.weight_decay, 0)
        require_between("warmup", self.warmup, 0, 1)

    @property
    def first_momentum(self) -> float:
        """Momentum of the warm-up."""
        return self.momentum if self.initial_momentum is None else self.initial_momentum

    def warm_steps(self, steps: int) -> int:
        """Return how many of the steps are the warm-up."""
        return math.ceil(self.warmup * steps)


def schedule_factor(step: int, settings: Optimisation, steps: int) -> float:
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
    settings : Optimisation
        Of the run.
    multiplier : float
        Of the learning rate.
    first : int
        So many steps are a phase of their own, from warm-up to the end of the schedule, and the rest are another.
    """

    settings: Optimisation
    multiplier: float = 1.0
    first: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate."""
        return self.settings.learning_rate * self.multiplier * schedule_factor(*self._place(step))

    def momentum(self, step: int) -> float:
        """Return SGD's momentum."""
        place, settings, steps = self._place(step)
        return settings.first_momentum if place < settings.warm_steps(steps) else settings.momentum

    def _place(self, step: int) -> tuple[int, Optimisation, int]:
        """Return where in its phase a step is, and of how many."""
        if step < self.first:
            return step, self.settings, self.first
        return step - self.first, self.settings, self.settings.steps - self.first


def build_optimizer(groups: list[dict[str, Any]], settings: Optimisation) -> torch.optim.Optimizer:
    """Return the optimiser of parameter groups, each {"params": [...], ...}; biases go undecayed."""
    split = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        split += [{**group, "params": matrices}, {**group, "params": vectors, "weight_decay": 0.0}]
    split = [group for group in split if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            split,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(split, lr=settings.learning_rate, weight_decay=settings.weight_decay)


@dataclass
class BatchOrder:
    """Which images make up the batch of each step: a new permutation for each pass.

    Attributes
    ----------
    count : int
        Images.
    batch_size : int
        Images a step; the rest of a pass that fills no batch waits for another permutation.
    seed, name
        Name the draw.
    """

    count: int
    batch_size: int
    seed: int
    name: str
    _pass: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), repr=False)

    def __call__(self, step: int) -> Tensor:
        """Return positions of images, (batch_size,) or all of them where there are fewer."""
        size = min(self.batch_size, self.count)
        passes, place = divmod(step, self.count // size)
        if self._pass[0] != passes:
            draw = generator(self.seed, self.name, "order", passes)
            self._pass = passes, torch.randperm(self.count, generator=draw)
        return self._pass[1][place * size : (place + 1) * size]


def share_out(positions: Tensor, fabric: Fabric) -> Tensor:
    """Return the part of a batch that this process computes; all have equally many, so that means of parts agree.

    Raises
    ------
    UserError
        When the batch cannot be shared out equally.
    """
    if len(positions) % fabric.world_size:
        raise UserError(
            f"batches of {len(positions)} images cannot be shared out equally among device.devices="
            f"{fabric.world_size} processes: give a batch_size that can."
        )
    return positions[fabric.global_rank :: fabric.world_size]


@torch.no_grad()
def _update_ratio(before: list[tuple[nn.Parameter, Tensor]]) -> float:
    """Return the norm of the last update over that of the weights that learnt; which do is known after the step."""
    learnt = [(old, parameter - old) for parameter, old in before if parameter.requires_grad]
    weights, update = (torch.cat([part.flatten() for part in parts]) for parts in zip(*learnt, strict=True))
    return float(update.norm() / weights.norm())


@dataclass
class Loop:
    """One training run of a module.

    Attributes
    ----------
    name : str
        Phase of the run, in its log and its random draws.
    module : nn.Module
        What learns; its state goes into the checkpoints.
    optimizer : torch.optim.Optimizer
        Over its parameters. Each group has a "schedule", a `Schedule`.
    settings : Optimisation
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
    settings: Optimisation
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
