"""Files that could not be read as images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runs.atomic_files import write_csv


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read as an image, and why.

    Attributes
    ----------
    path, reason : str
        The file, and why it was skipped.
    passing : bool
        Whether this may be over at the next run, as a missing permission may be.
    """

    path: str
    reason: str
    passing: bool = False


def write_skipped(file: Path, skipped: Sequence[Skipped]) -> None:
    """Write a CSV file with the columns path and reason."""
    write_csv(file, ("path", "reason"), [(skip.path, skip.reason) for skip in skipped])
