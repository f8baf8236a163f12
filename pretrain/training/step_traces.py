"""Recording a trace of a few steps of training, with torch.profiler."""

import gzip
import json
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerAction, ProfilerActivity, profile, schedule

from pretrain.runs.atomic_files import write_bytes
from pretrain.runs.profiling import name_events
from pretrain.runs.progress import complain
from pretrain.runs.run_folder import RunFolder
from pretrain.training.trainer import Callback, Metrics, Trainer

TRACED = 4  # steps; hundreds of events are recorded in each, so a whole run would take gigabytes
LAST_TRACED = 20  # the step that writes the first rows of the log, counted from where the run starts or goes on


class StepTrace(Callback):
    """Record a few early steps of each phase, and write them as ``trace-<phase>.json.gz`` for the usual viewers.

    Parameters
    ----------
    folder : RunFolder
        Where the trace is written.
    """

    timed_as = "tracing"

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.profiler: profile | None = None
        self.written = False

    def on_start(self, trainer: Trainer) -> None:
        """Have the first process record steps up to `LAST_TRACED`, or the last ones of a shorter phase."""
        last = min(LAST_TRACED, trainer.training.steps - trainer.step)
        # The first step that is recorded takes longer than the others, and is thrown away.
        traced = min(TRACED, last - 1)
        if traced < 1 or not self.folder.writes:
            return
        steps = schedule(wait=last - traced - 1, warmup=1, active=traced, repeat=1)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self.profiler = profile(
            activities=activities, schedule=steps, on_trace_ready=lambda ready: self._write(ready, trainer)
        )
        self.written = False
        self.profiler.start()
        name_events(self.profiler.current_action is not ProfilerAction.NONE)

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Go on to the next step of the schedule."""
        if self.profiler:
            self.profiler.step()
            name_events(self.profiler.current_action is not ProfilerAction.NONE)
            if self.written:
                self.on_end(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """Stop recording, and write what there is of a phase that ended early."""
        # One that cannot be stopped is not to be stopped again.
        profiler, self.profiler = self.profiler, None
        if profiler:
            profiler.stop()
            name_events(False)

    def on_abort(self, trainer: Trainer) -> None:
        """Stop recording without a trace, since the process has one profiler, which the next training needs."""
        if self.profiler:
            self.profiler.on_trace_ready = None
            self.on_end(trainer)

    def _write(self, ready: profile, trainer: Trainer) -> None:
        """Write the trace; where that fails, the training goes on without it."""
        self.written = True
        file = self.folder.path / f"trace-{trainer.name.replace(' ', '')}.json.gz"
        try:
            write_bytes(file, gzip.compress(_exported(ready)))
        except OSError as error:
            complain(f"note: {trainer.name}: no trace is written: {error}")
        else:
            complain(f"{trainer.name}: a trace of steps up to {trainer.step}, for ui.perfetto.dev, is in {file}")


def _exported(ready: profile) -> bytes:
    """Return a trace as JSON, which torch.profiler can only write to a file.

    Raises
    ------
    OSError
        When the file is missing or cut off. On a full disk, torch.profiler raises no error.
    """
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / "trace.json"
        ready.export_chrome_trace(str(exported))
        try:
            written = exported.read_bytes()
            json.loads(written)
        except (FileNotFoundError, ValueError):
            raise OSError(f"torch.profiler could not write it to {tempfile.gettempdir()}: is the disk full?") from None
    return written
