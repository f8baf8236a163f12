"""What a command would run, what is there already, and about how long it would take: nothing is written."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from statistics import fmean

from lightning_fabric import Fabric

from pretrain.comparison.plan import Comparison
from pretrain.comparison.seed_cost import own_seconds
from pretrain.comparison.stopping_rule import begun
from pretrain.comparison.tasks import FinetuningTask, PretrainingTask, Task, tasks
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.pipelines.time_estimates import finetuning_seconds, pretraining_seconds
from pretrain.runs.run_folder import RunFolder

MEASURED, FINISHED = "timed on random images", "as those that are complete"


@dataclass(frozen=True)
class PlannedRun:
    """A run that a command would make, or finds complete.

    Attributes
    ----------
    kind : str
        Runs of one kind take about equally long.
    folder : Path
        Its folder.
    estimate : callable
        Returns the seconds that it takes by a short measurement; None where there is none.
    """

    kind: str
    folder: Path
    estimate: Callable[[], float | None]

    @property
    def state(self) -> str:
        """Whether the run is complete, begun or missing."""
        if RunFolder(self.folder).accepted():
            return "complete"
        return "begun" if (self.folder / "config.yaml").exists() else "missing"

    @property
    def seconds(self) -> float | None:
        """How long a complete run took; None for another."""
        return own_seconds(RunFolder(self.folder).accepted() or {})

    @property
    def bytes(self) -> int:
        """Size of what is in the folder."""
        return sum(file.stat().st_size for file in self.folder.glob("*") if file.is_file())


def dry_run(settings: StageRun | FinetuningRun | ProbeRun | Comparison) -> list[str]:
    """Return lines on what a command would run, what is there, and a rough estimate of time and disk.

    Parameters
    ----------
    settings : StageRun, FinetuningRun, ProbeRun or Comparison
        Settings of the command. What it trains is timed for a few updates on random images, unless runs of the kind
        are complete.
    """
    fabric = settings.device.launch()
    if isinstance(settings, Comparison):
        return _lines_of_comparison(settings, fabric)
    kind = {StageRun: "pretraining", FinetuningRun: "fine-tuning", ProbeRun: "probing"}[type(settings)]
    return _lines([PlannedRun(kind, Path(settings.out), lambda: _seconds(settings, fabric))], jobs=1)


def _lines_of_comparison(comparison: Comparison, fabric: Fabric) -> list[str]:
    """Return the lines for a comparison, up to its next look and at most where it may go on after that."""
    now, jobs = begun(comparison, Path(comparison.out)), comparison.slurm.workers or comparison.jobs
    lines = _lines([*_planned(now, fabric)], jobs)
    if not now.may_go_on:
        return lines
    last = now.at_look(len(now.looks.seeds) - 1)
    most = _lines([*_planned(last, fabric)], jobs)
    return [
        f"with the {len(now.seeds_in_use)} seeds of the next look:",
        *lines[:-1],
        f"with {comparison.most_seeds} seeds, at most: {most[0]}",
        *most[-2:],
    ]


def _seconds(settings: StageRun | FinetuningRun | ProbeRun, fabric: Fabric) -> float | None:
    shape = settings.data.shape
    if isinstance(settings, StageRun):
        return pretraining_seconds(settings.stack, shape, settings.upto, fabric)
    if isinstance(settings, FinetuningRun):
        return finetuning_seconds(settings.stack, shape, settings.data.class_names(), settings.recipe, fabric)
    return None


def _planned(comparison: Comparison, fabric: Fabric) -> Iterator[PlannedRun]:
    """Yield the runs of a comparison in their order; equal measurements are made once."""
    shape, classes = comparison.data.shape, comparison.data.class_names()

    @cache
    def pretraining(arm: str | None) -> float:
        stack = comparison.stack_of(arm) if arm else comparison.stack
        return pretraining_seconds(stack, shape, None, fabric)

    @cache
    def finetuning(arm: str, candidate: int, multiple: float) -> float:
        recipe = comparison.recipes(arm)[candidate].stretched(multiple)
        return finetuning_seconds(comparison.stack, shape, classes, recipe, fabric)

    def estimate(task: Task) -> float | None:
        if isinstance(task, PretrainingTask):
            return pretraining(task.arm)
        return finetuning(task.arm, task.trial or 0, task.compute) if isinstance(task, FinetuningTask) else None

    for task in tasks(comparison):
        trial = isinstance(task, FinetuningTask) and task.trial is not None
        kind = f"trials of {task.kind}" if trial else task.kind
        yield PlannedRun(kind, task.folder(Path(comparison.out)), lambda task=task: estimate(task))  # type: ignore[misc]


def _lines(planned: list[PlannedRun], jobs: int) -> list[str]:
    """Return a line for each kind of run, and one for all of them."""
    kinds = defaultdict(list)
    for run in planned:
        kinds[run.kind].append(run)
    lines, left = [], 0.0
    for kind, runs in kinds.items():
        seconds, words = _time_left(runs)
        left += seconds
        lines.append(f"{kind}: {_states(runs)}{words}")
    sizes = [run.bytes for run in planned if run.state == "complete"]
    disk = f", and {fmean(sizes) * (len(planned) - len(sizes)) / 2**20:.0f} MiB of disk" if sizes else ""
    return [
        f"would run {_states(planned)}",
        *lines,
        f"rough estimate: {_clock(left / jobs)} of training{disk}; loading, evaluation and pictures come on top",
        "dry run: nothing was run or written",
    ]


def _states(runs: Iterable[PlannedRun]) -> str:
    states = [run.state for run in runs]
    counts = [f"{states.count(state)} {state}" for state in ("complete", "begun", "missing") if state in states]
    return f"{len(states)} run{'s' * (len(states) != 1)} ({', '.join(counts)})"


def _time_left(runs: list[PlannedRun]) -> tuple[float, str]:
    """Return the seconds that the incomplete runs of a kind take, and the same in words."""
    left = [run for run in runs if run.state != "complete"]
    known = [taken for run in runs if (taken := run.seconds) is not None]
    if known:
        seconds, basis = fmean(known) * len(left), FINISHED
    else:
        measured = [estimate for run in left if (estimate := run.estimate()) is not None]
        if not measured:
            return 0.0, "; time not estimated" if left else ""
        seconds, basis = sum(measured), MEASURED
    return seconds, f"; {_clock(seconds)} left, {basis}" if left else ""


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
