"""The exception for mistakes of the user, which a command prints as one line."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake in the user's input: each line of the message says what was wrong, where, and what to do."""


class DamagedFileError(UserError):
    """A file that cannot be what was written.

    Parameters
    ----------
    file : Path
        The file.
    reason : str
        What shows the damage.
    advice : str
        What to do.
    """

    def __init__(self, file: Path, reason: str, advice: str = "restore it, or run its command with overwrite=true"):
        super().__init__(f"{file} is damaged ({reason}): {advice}.")
        self.file, self.reason = file, reason


def system_line(error: OSError) -> str:
    """Return a line on what the system refused, with the file, and what to do where a disk is full."""
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    advice = ": make room, and run the same command again" if is_full_disk(error) else ""
    return f"{where}{error.strerror or error}{advice}".rstrip(".") + "."


def is_full_disk(error: BaseException) -> bool:
    """Return whether there was no room left to write, on the disk or in the user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def require_between(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise a `UserError` unless `low <= value <= high`; NaN is rejected."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"{name}={value}: it must be {wanted}.")


def choose(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise a `UserError` that lists the `choices` unless `value` is one of them."""
    if value not in [*choices]:
        raise UserError(f"{option}={value} is not known; choose one of {', '.join(choices)}.")
