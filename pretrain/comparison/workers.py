"""Run the tasks of a comparison in one process, in several, or on several computers that share its folder."""

import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock, Timeout
from lightning_fabric import Fabric

from pretrain.comparison.data_checks import check_data
from pretrain.comparison.plan import Comparison
from pretrain.comparison.tasks import FinetuningTask, PretrainingTask, ProbingTask, Task, tasks
from pretrain.data.dataset import Dataset
from pretrain.data.loading import load_data
from pretrain.errors import UserError
from pretrain.pipelines.layer_probing import run_probe
from pretrain.pipelines.network_finetuning import run_finetune
from pretrain.pipelines.stage_training import run_stages
from pretrain.runs.atomic_files import write_text
from pretrain.runs.device import keep_freed_memory
from pretrain.runs.run_folder import RunFolder, open_run

# A worker waits this long while the remaining tasks are held by other processes.
POLL_SECONDS = 1.0


def run_comparison(comparison: Comparison) -> list[str]:
    """Run the missing tasks of a comparison, in the folder ``comparison.out``.

    Returns
    -------
    list of str
        One line for each task that failed, with the reason, which failure.txt in its folder holds as well. A failure
        does not stop the other tasks.

    Raises
    ------
    UserError
        When a setting does not fit the images, or the folder holds something other than this comparison.
    """
    started, jobs = time.time(), comparison.jobs
    if jobs == 1:
        return Worker(comparison, started).run()
    comparison = comparison.with_threads(comparison.device.threads or max(1, (os.cpu_count() or 1) // jobs))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        failures = pool.map(_work, [comparison] * jobs, [started] * jobs)
        return list(dict.fromkeys(line for lines in failures for line in lines))


def exclusively(out: str | Path) -> FileLock:
    """Return the lock to hold while opening the folder of a comparison or writing its report."""
    path = Path(out).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    # In a folder that cannot be written, the lock would wait for ever; touching the file fails at once.
    lock.touch()
    return FileLock(lock)


def _work(comparison: Comparison, started: float) -> list[str]:
    keep_freed_memory()
    return Worker(comparison, started).run()


@dataclass
class Worker:
    """A process that goes through the tasks of a comparison and runs those that no other worker does.

    Several workers may share one comparison. A lock on each task keeps them apart, and the system frees it when its
    holder ends. Of a task that another worker has finished, a worker only reads the result.

    Attributes
    ----------
    comparison : Comparison
        Comparison to run.
    started : float
        Start of the comparison, in seconds since the epoch. A task that failed earlier is tried again.
    settled : dict of Task to str or None
        Tasks that have ended, each with the reason of its failure, or None.
    seconds : dict of str to list of float
        Durations of the tasks of this worker, by kind.
    needs : dict of Task to list of Task
        All tasks in order, each with the tasks that must have ended before it starts.
    """

    comparison: Comparison
    started: float
    settled: dict[Task, str | None] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        """Load the data, and open the folder, which is bound to these data."""
        self.out = Path(self.comparison.out)
        self.fabric = self.comparison.device.launch()
        # Loading may download the data, which only one process at a time should do.
        with exclusively(self.out) if self.fabric.world_size == 1 else nullcontext():
            self.data = load_data(self.comparison.data, self.fabric)
            check_data(self.comparison, self.data)
            changed = _added_or_removed(self.comparison, self.out)
            self.folder = open_run(self.comparison, self.data.digests, self.fabric, ignore=changed)
            self.data.record_in(self.folder)
        self.needs = tasks(self.comparison)

    def run(self) -> list[str]:
        """Work until every task has ended, and return one line for each that failed."""
        while len(self.settled) < len(self.needs):
            before = len(self.settled)
            for task, needs in self.needs.items():
                if task not in self.settled and all(needed in self.settled for needed in needs):
                    self._attempt(task)
            if len(self.settled) == before:
                time.sleep(POLL_SECONDS)
        return [f"{task}: {reason}" for task, reason in self.settled.items() if reason]

    def _attempt(self, task: Task) -> None:
        """Settle a task, unless another process holds its lock."""
        # Data-parallel processes go through the tasks together, and take no locks.
        alone = self.fabric.world_size == 1
        try:
            with self.lock(task).acquire(blocking=False) if alone else nullcontext():
                self.settled[task] = self._settle(task)
        except Timeout:
            return

    def lock(self, task: Task) -> FileLock:
        """Return the lock to hold while running a task."""
        return FileLock(self.out / ".locks" / f"{task}.lock".replace(" ", "-").replace(",", ""))

    def _settle(self, task: Task) -> str | None:
        """Run a task, or read how it ended; return the reason of a failure, or None."""
        folder = task.folder(self.out)
        note, was_complete = folder / "failure.txt", RunFolder(folder).summary() is not None
        if not was_complete and note.exists() and note.stat().st_mtime >= self.started:
            return RunFolder(folder).failure()
        began = time.monotonic()
        try:
            for needed in self.needs[task]:
                if isinstance(needed, PretrainingTask) and (reason := self.settled[needed]):
                    raise UserError(reason)
            summary = _run(task, self.comparison, self.data, self.fabric)
        except UserError as error:
            if self.folder.writes:
                folder.mkdir(parents=True, exist_ok=True)
                write_text(note, f"{error}\n")
            return str(error)
        if self.folder.writes:
            note.unlink(missing_ok=True)
        if not was_complete and self.folder.writes:
            self.seconds[task.kind].append(time.monotonic() - began)
            self._say(task, summary)
        return None

    def _say(self, task: Task, summary: dict[str, Any]) -> None:
        """Report progress on standard error: the task done, its accuracy, and the estimated time left."""
        result = f": validation {_percent(summary['val_accuracy'])}" if isinstance(task, FinetuningTask) else ""
        measured = [second for seconds in self.seconds.values() for second in seconds]
        left = [
            fmean(self.seconds.get(other.kind) or measured)
            for other in self.needs
            if other != task and other not in self.settled and RunFolder(other.folder(self.out)).summary() is None
        ]
        done = len(self.needs) - len(left)
        remaining = timedelta(seconds=round(sum(left) / self.comparison.jobs))
        print(f"[{done}/{len(self.needs)}] {task}{result}; about {remaining} left", file=sys.stderr, flush=True)


def _run(task: Task, comparison: Comparison, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    match task:
        case PretrainingTask():
            return run_stages(task.settings(comparison), data, fabric)
        case ProbingTask():
            return run_probe(task.settings(comparison), data, fabric)
        case FinetuningTask():
            settings = task.settings(comparison)
            summary = run_finetune(settings, data, fabric)
            # A trial is run for its accuracy alone.
            if task.trial is not None and fabric.global_rank == 0:
                Path(settings.out, "network.pt").unlink(missing_ok=True)
            return summary


def _added_or_removed(comparison: Comparison, out: Path) -> list[str]:
    """Return, as settings, the arms that this call adds to the comparison in `out` or leaves out."""
    there = RunFolder(out).config().get("arms", {}) if (out / "config.yaml").exists() else {}
    return [f"arms.{arm}" for arm in {*there} ^ {*comparison.arms}]


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"
