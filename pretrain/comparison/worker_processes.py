"""Run a comparison in one process or in several, which end together."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess

from pretrain.comparison.plan import Comparison
from pretrain.comparison.workers import Worker
from pretrain.errors import UserError, system_line
from pretrain.runs.device import keep_freed_memory
from pretrain.runs.interruption import Interruption, signals_end_the_process
from pretrain.runs.progress import complain


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
    jobs = comparison.jobs
    if jobs > 1:
        comparison = comparison.with_threads(comparison.device.threads or max(1, (os.cpu_count() or 1) // jobs))
    # This process is one of the workers, and the first, so that a mistake is reported once.
    first = Worker(comparison)
    with _other_workers(comparison, first.started) if jobs > 1 else nullcontext():
        failures = first.run()
    first.keep_gallery()
    return failures


@contextmanager
def _other_workers(comparison: Comparison, started: float) -> Iterator[None]:
    """Start the other workers of a comparison; end them with this process, however it ends."""
    if parent_process() is not None:
        sys.exit("jobs needs a script that may be imported: call run_comparison under if __name__ == '__main__':")
    context = get_context("spawn")
    others: list[BaseProcess] = [
        context.Process(target=_work, args=(comparison, started)) for _ in range(comparison.jobs - 1)
    ]
    try:
        with _ignoring_interrupts():
            for other in others:
                other.start()
        yield
    except BaseException:
        for other in _started(others):
            other.terminate()
        raise
    finally:
        for other in _started(others):
            other.join()
    if lost := [other.exitcode for other in others if other.exitcode]:
        complain(f"note: {len(lost)} of the {comparison.jobs} workers did not end well; the others did the work")


def _started(processes: Sequence[BaseProcess]) -> list[BaseProcess]:
    """Return the processes that were started; one that was not can neither be ended nor waited for."""
    return [process for process in processes if process.pid is not None]


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C in the block, and in processes that it starts: they end when this process tells them to."""
    # Other threads than the main one cannot change what a signal does, and are not interrupted.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(comparison: Comparison, started: float) -> None:
    """Work as one more process, until all is done or the process that started this one ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        with suppress(Interruption), signals_end_the_process(patient=True):
            Worker(comparison, started).run()
    except (UserError, OSError) as error:
        complain(f"error: {system_line(error) if isinstance(error, OSError) else error}")
        sys.exit(2)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
