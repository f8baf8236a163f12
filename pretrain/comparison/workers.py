"""A worker goes through the tasks of a comparison, alone or beside others, which may be on other computers."""

import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import Timeout
from lightning_fabric import Fabric

from pretrain.comparison.data_checks import check_data
from pretrain.comparison.image_gallery import keep_gallery
from pretrain.comparison.plan import Comparison
from pretrain.comparison.stopping_rule import begun, goes_on, refuse_other_rule
from pretrain.comparison.tasks import FinetuningTask, PretrainingTask, ProbingTask, Task, tasks
from pretrain.data.dataset import Dataset
from pretrain.data.loading import load_data
from pretrain.errors import UserError, is_full_disk, system_line
from pretrain.pipelines.layer_probing import run_probe
from pretrain.pipelines.network_finetuning import run_finetune
from pretrain.pipelines.stage_training import run_stages
from pretrain.runs.atomic_files import write_text
from pretrain.runs.memory import out_of_memory
from pretrain.runs.progress import say
from pretrain.runs.run_folder import RunFolder, open_run, run_lock
from pretrain.runs.sittings import holder

# A worker waits this long while the remaining tasks are held by other processes.
POLL_SECONDS = 1.0
CLOCK_TOLERANCE = 60.0  # seconds
LOCK_SECONDS = 60.0  # longest that another worker or a report holds the lock


@contextmanager
def exclusively(out: str | Path) -> Iterator[None]:
    """Hold the lock of a comparison's folder, while it is opened or its report is written.

    Raises
    ------
    UserError
        When another process holds the lock for long, as a run in the same folder does.
    """
    Path(out).mkdir(parents=True, exist_ok=True)
    lock = run_lock(Path(out))
    # In a folder that cannot be written, the lock would wait for ever; touching the file fails at once.
    Path(lock.lock_file).touch()
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise UserError(f"{out} is in use by {holder(Path(out))}: wait until it has ended.") from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class Worker:
    """A process that goes through the tasks of a comparison and runs those that no other worker does.

    Several workers may share one comparison. A lock on each task keeps them apart, and the system frees it when its
    holder ends. Of a task that another worker has finished, a worker only reads the result.

    Attributes
    ----------
    comparison : Comparison
        Comparison to run; with ``seeds=auto`` at the look that it has come to.
    started : float
        Start of the comparison, in seconds since the epoch. A task that failed earlier is tried again. 0: now.
    settled : dict of Task to str or None
        Tasks that have ended, each with the reason of its failure, or None.
    seconds : dict of str to list of float
        Durations of the tasks of this worker, by kind.
    needs : dict of Task to list of Task
        All tasks in order, each with the tasks that must have ended before it starts.
    """

    comparison: Comparison
    started: float = 0.0
    settled: dict[Task, str | None] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        """Load the data, and open the folder, which is bound to these data."""
        self.out = Path(self.comparison.out)
        self.fabric = self.comparison.device.launch()
        self.data = load_data(self.comparison.data, self.fabric)
        check_data(self.comparison, self.data)
        # Data-parallel processes open the folder together.
        with exclusively(self.out) if self.fabric.world_size == 1 else nullcontext():
            refuse_other_rule(self.comparison, self.out)
            changed = added_or_removed(self.comparison, self.out)
            with open_run(self.comparison, self.data.digests, self.fabric, ignore=changed) as self.folder:
                self.data.record_in(self.folder)
                # The clock of the folder's computer may differ from this one's, and it dates the failures.
                self.started = self.started or (self.out / "env.json").stat().st_mtime
        self.comparison = begun(self.comparison, self.out)
        self.needs = tasks(self.comparison)

    def run(self, *, leave: bool = False) -> list[str]:
        """Work until every task has ended, and return one line for each that failed.

        Parameters
        ----------
        leave : bool
            Whether to leave once other workers are at all tasks that remain, instead of waiting for their end.
        """
        while not self.has_seen_the_end:
            before = len(self.settled)
            left = [task for task in self.needs if task not in self.settled]
            ready = [task for task in left if self._attempt_if_ready(task)]
            if len(self.settled) == before:
                if leave and ready == left and not self.comparison.may_go_on:
                    break
                time.sleep(POLL_SECONDS)
            if self.has_seen_the_end:
                self._go_on_if_asked()
        return [f"{task}: {reason}" for task, reason in self.settled.items() if reason]

    def keep_gallery(self) -> None:
        """Copy the test images that the report shows into the folder of the comparison, once every task has ended."""
        if self.folder.writes:
            with exclusively(self.out):
                keep_gallery(self.comparison, self.data)

    @property
    def has_seen_the_end(self) -> bool:
        """Whether every task has ended."""
        return len(self.settled) == len(self.needs)

    def _go_on_if_asked(self) -> None:
        """Add the seeds of the next look, unless those that have ended are enough."""
        if self.comparison.may_go_on and self.fabric.broadcast(goes_on(self.comparison, self.out)):
            self.comparison = self.comparison.at_look(self.comparison.look + 1)
            self.needs = tasks(self.comparison)
            if self.folder.writes:
                say(f"the interval is wider than asked: going on to {len(self.comparison.seeds_in_use)} seeds")

    def _attempt_if_ready(self, task: Task) -> bool:
        """Attempt a task if those that it needs have ended; return whether they have."""
        is_ready = all(needed in self.settled for needed in self.needs[task])
        if is_ready:
            self._attempt(task)
        return is_ready

    def _attempt(self, task: Task) -> None:
        """Settle a task, unless another process holds the lock of its folder."""
        # Data-parallel processes go through the tasks together, and the first of them locks each run as it opens it.
        alone, folder = self.fabric.world_size == 1, task.folder(self.out)
        # Else the folder of the comparison would be made again, with a part of its runs.
        self.folder.require_there()
        try:
            if alone:
                folder.mkdir(parents=True, exist_ok=True)
            with run_lock(folder).acquire(blocking=False) if alone else nullcontext():
                self.settled[task] = self._settle(task)
        except Timeout:
            return
        except OSError as error:
            # The folder of one run may be out of reach.
            if is_full_disk(error):
                raise
            self.settled[task] = system_line(error)

    def _settle(self, task: Task) -> str | None:
        """Run a task, or read how it ended; return the reason of a failure, or None."""
        folder = task.folder(self.out)
        was_complete = RunFolder(folder).is_complete
        if not was_complete and self._has_just_failed(folder):
            return RunFolder(folder).failure()
        began = time.monotonic()
        try:
            for needed in self.needs[task]:
                if isinstance(needed, PretrainingTask) and (reason := self.settled[needed]):
                    raise UserError(reason)
            summary = _run(task, self.comparison, self.data, self.fabric)
        except Exception as error:
            # A full disk would stop all other runs as well.
            if is_full_disk(error):
                raise
            self.folder.require_there()
            reason = _reason(error)
            if self.folder.writes:
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / "failure.txt", f"{reason}\n")
            return reason
        if self.folder.writes:
            (folder / "failure.txt").unlink(missing_ok=True)
        if not was_complete and self.folder.writes:
            self.seconds[task.kind].append(time.monotonic() - began)
            self._say(task, summary)
        return None

    def _has_just_failed(self, folder: Path) -> bool:
        """Return whether a worker of this comparison has noted a failure since the start; it is not tried again."""
        note = folder / "failure.txt"
        # A date in the future is that of a clock which was wrong.
        return note.exists() and self.started <= note.stat().st_mtime <= time.time() + CLOCK_TOLERANCE

    def _say(self, task: Task, summary: dict[str, Any]) -> None:
        """Report progress on standard error: the task done, its accuracy, and the estimated time left."""
        result = f": validation {_percent(summary['val_accuracy'])}" if isinstance(task, FinetuningTask) else ""
        measured = [second for seconds in self.seconds.values() for second in seconds]
        left = [
            fmean(self.seconds.get(other.kind) or measured)
            for other in self.needs
            if other != task and other not in self.settled and not RunFolder(other.folder(self.out)).is_complete
        ]
        done = len(self.needs) - len(left)
        remaining = timedelta(seconds=round(sum(left) / self.comparison.jobs))
        say(f"[{done}/{len(self.needs)}] {task}{result}; about {remaining} left")


def _reason(error: Exception) -> str:
    """Return why a run failed. A fault of one run, such as a lack of memory, does not stop the others."""
    if isinstance(error, UserError):
        return str(error)
    if line := out_of_memory(error) or (system_line(error) if isinstance(error, OSError) else None):
        return line
    traceback.print_exc()
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _run(task: Task, comparison: Comparison, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    match task:
        case PretrainingTask():
            return run_stages(task.settings(comparison), data, fabric)
        case ProbingTask():
            return run_probe(task.settings(comparison), data, fabric)
        case FinetuningTask():
            settings = task.settings(comparison)
            return run_finetune(settings, data, fabric, keep_network=task.trial is None)


def added_or_removed(comparison: Comparison, out: Path) -> list[str]:
    """Return, as settings, the arms that this call adds to the comparison in `out` or leaves out."""
    there = RunFolder(out).config().get("arms", {}) if (out / "config.yaml").exists() else {}
    return [f"arms.{arm}" for arm in {*there} ^ {*comparison.arms}]


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"
