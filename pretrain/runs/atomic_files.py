"""Write files atomically: a reader finds the old content or the new one, also after a crash or a full disk."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"  # ending of a file that is being written


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file completely or not at all.

    Raises
    ------
    OSError
        When it cannot be written; the error names the file, which is as it was before.
    """
    scratch = file.with_name(f"{file.name}{PART}")
    with errors_that_name(file):
        try:
            with scratch.open("wb") as stream:
                stream.write(data)
                stream.flush()
                # Without this, a power cut after the rename may leave an empty file.
                os.fsync(stream.fileno())
            scratch.replace(file)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        _sync_folder(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write a file of text in UTF-8, as `write_bytes` does."""
    # File names in the text may be in an old encoding.
    write_bytes(file, text.encode(errors="surrogateescape"))


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV table, as `write_bytes` does."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([columns, *rows])
    write_text(file, table.getvalue())


@contextmanager
def errors_that_name(file: Path) -> Iterator[None]:
    """Make an `OSError` in the block name a file, which errors of writing to an open file do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        # Some network file systems cannot do this.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
