"""Submit the workers of a comparison to Slurm through submitit, and submit them again at their time limit."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.comparison.plan import Comparison
from pretrain.comparison.stopping_rule import refuse_other_rule
from pretrain.comparison.workers import Worker, added_or_removed, exclusively
from pretrain.errors import UserError, system_line
from pretrain.runs.device import keep_freed_memory
from pretrain.runs.interruption import Interruption, signals_end_the_process
from pretrain.runs.progress import complain
from pretrain.runs.resumption import DIGESTS, differences, first_few
from pretrain.runs.run_folder import JOBS, RunFolder
from pretrain.runs.typed_settings import as_config, may_differ

# Seconds before its time limit at which a worker is told to save, which it does after the present step.
NOTICE = 120


@dataclass
class WorkerJob:
    """One worker of a comparison as a job, which submitit stores in a file and calls on another computer.

    Attributes
    ----------
    comparison : Comparison
        Comparison to share.
    started : float
        When the workers were submitted, in seconds since the epoch by the clock of the folder's computer. What has
        failed since is not tried again.
    report : callable
        Writes the report of a folder. The worker that ends last calls it.
    """

    comparison: Comparison
    started: float
    report: Callable[[str], object]

    def __call__(self) -> list[str]:
        """Work until nothing is left to do; return one line for each task that failed.

        At the signal before the time limit, the worker saves, and submitit submits it again.
        """
        limit = _time_limit_signal()
        submit_again: Any = signal.getsignal(limit)
        try:
            with signals_end_the_process([limit], patient=True):
                return self._work()
        except Interruption:
            submit_again(limit, None)
            raise
        except (UserError, OSError) as error:
            complain(f"error: {system_line(error) if isinstance(error, OSError) else error}")
            sys.exit(2)

    def checkpoint(self) -> Any:
        """Return what submitit submits again: the same, since the folder of the comparison holds all that is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _work(self) -> list[str]:
        keep_freed_memory()
        worker = Worker(self.comparison, self.started)
        failures = worker.run(leave=True)
        if worker.has_seen_the_end:
            worker.keep_gallery()
            with exclusively(self.comparison.out):
                self.report(self.comparison.out)
        return failures


def submit_workers(
    comparison: Comparison, report: Callable[[str], object], *, cluster: str = "slurm"
) -> tuple[list[Any], list[str]]:
    """Submit the workers that share a comparison, ``comparison.slurm.workers`` of them.

    Parameters
    ----------
    comparison : Comparison
        Comparison to share. Its folder, and all else that the settings name, must be there for every worker.
    report : callable
        Writes the report of a folder.
    cluster : str
        Where submitit submits them: "slurm", or "local" for processes of this computer.

    Returns
    -------
    list of submitit.Job and list of str
        The jobs, and lines that say how to watch and to stop them.

    Raises
    ------
    UserError
        When submitit or Slurm is missing, Slurm refuses the jobs, or the folder holds another comparison.
    """
    settings = comparison.slurm
    try:
        import submitit
    except ImportError:
        raise UserError(
            f"slurm.workers={settings.workers} needs submitit: run pip install 'pretrain[slurm]'."
        ) from None
    _refuse_other_comparison(comparison)
    folder = Path(comparison.out) / JOBS
    try:
        executor = _executor(comparison, folder, cluster)
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "submitted"
        mark.touch()
        # The time that is left is that of all of them together.
        alone = replace(comparison, slurm=replace(settings, workers=0), jobs=settings.workers)
        alone = alone.with_threads(comparison.device.threads or settings.cpus)
        job = WorkerJob(alone, mark.stat().st_mtime, report)
        with executor.batch():
            jobs = [executor.submit(job) for _ in range(settings.workers)]
    except (RuntimeError, NameError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"slurm.workers={settings.workers}: {' '.join(str(error).split())}") from None
    return jobs, _advice(comparison, jobs, folder)


def _executor(comparison: Comparison, folder: Path, cluster: str) -> Any:
    """Return what submits jobs with the settings of a comparison, and keeps their files in a folder."""
    import submitit

    settings = comparison.slurm
    executor = submitit.AutoExecutor(folder, cluster, **{f"{cluster}_max_num_timeout": settings.resubmissions})
    executor.update_parameters(
        name=Path(comparison.out).name,
        timeout_min=max(1, round(60 * settings.hours)),
        cpus_per_task=settings.cpus,
        # Where a cluster knows no GPUs, it refuses 0 of them as well.
        gpus_per_node=settings.gpus or None,
        mem_gb=settings.memory,
        slurm_partition=settings.partition,
        slurm_account=settings.account,
        slurm_additional_parameters=settings.options or None,
        slurm_signal_delay_s=NOTICE,
    )
    return executor


def _refuse_other_comparison(comparison: Comparison) -> None:
    """Refuse a folder with other settings before anything waits in a queue; the workers check it once more."""
    out = Path(comparison.out)
    if comparison.overwrite or not (out / "config.yaml").exists():
        return
    refuse_other_rule(comparison, out)
    # The images are not loaded here, and this computer may choose another precision.
    ignore = (*may_differ(comparison), *added_or_removed(comparison, out), *DIGESTS, "device.precision")
    if differing := differences(RunFolder(out).config(), as_config(comparison), ignore):
        raise UserError(
            f"{out} holds a run with other settings: {first_few(differing)}. Give another out=, or overwrite=true to "
            "start again."
        )


def _advice(comparison: Comparison, jobs: Sequence[Any], folder: Path) -> list[str]:
    """Return lines on how to watch the workers, to stop them, and to write the report."""
    numbers = [*dict.fromkeys(job.job_id.partition("_")[0] for job in jobs)]
    return [
        f"{len(jobs)} worker{'s' * (len(jobs) > 1)} submitted: job {' '.join(numbers)}",
        f"watch: squeue --job {','.join(numbers)}; tail -f {folder}/*_log.err",
        f"stop: scancel {' '.join(numbers)}; the same command goes on from there",
        "the last worker writes the report; to write it before, or again: "
        f"python -m pretrain.report run={comparison.out}",
    ]


def _time_limit_signal() -> int:
    """Return the signal by which submitit tells a job that its time limit is near."""
    return getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
