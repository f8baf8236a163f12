"""The finished runs of a comparison in its folder, with what each predicted for the test images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.comparison.plan import Comparison
from pretrain.comparison.tasks import FinetuningTask, runs_that_count
from pretrain.errors import DamagedFileError
from pretrain.evaluation.kept_predictions import KeptPredictions, read_predictions
from pretrain.runs.run_folder import RunFolder


def finished_runs(
    comparison: Comparison, arms: set[str]
) -> Iterator[tuple[FinetuningTask, dict[str, Any], KeptPredictions | None]]:
    """Yield each run of some arms with the steps of its recipe that is complete and has all its files.

    With it come its summary and its predictions, or None where it kept none. A run that judged other test images than
    those of the comparison, before it was overwritten, is left out.
    """
    out = Path(comparison.out)
    judged = RunFolder(out).config().get("labelled_digest")
    for task in runs_that_count(comparison):
        if task.arm not in arms or task.compute != 1:
            continue
        folder = RunFolder(task.folder(out))
        try:
            folder.check()
            summary, kept = folder.accepted(), read_predictions(folder)
        except DamagedFileError:
            # The report names it among the failures.
            continue
        if summary and (kept is None or kept.images_digest == judged):
            yield task, summary, kept
