"""Arrays of one shape that follow each other in a file, of which those asked for are read."""

import copy
import errno
import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RowFile:
    """Rows of a file, which are read by their positions.

    The file is not mapped. The pages of a mapped file count as memory of the process for as long as they are mapped;
    and a file that is cut, or a disk that fails, would end the process by a bus error. Here both are an `OSError`.

    Parameters
    ----------
    descriptor : int
        That of an open file. It is closed once nothing reads the rows any more.
    shape : sequence of int
        Shape of a row.
    dtype : data type of NumPy
        Type of its values.
    count : int, optional
        Number of rows; as many as the file holds by default.
    """

    def __init__(self, descriptor: int, shape: Sequence[int], dtype: Any = np.uint8, count: int | None = None):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.row_bytes = prod(self.shape) * self.dtype.itemsize
        self.count = os.fstat(descriptor).st_size // self.row_bytes if count is None else count
        self.file = open(descriptor, "r+b", buffering=0, closefd=False)  # noqa: SIM115
        weakref.finalize(self.file, os.close, descriptor)
        # To go to a place and to read there are two steps, which another thread must not part.
        self._lock = threading.Lock()

    @classmethod
    def at(cls, path: Path, shape: Sequence[int], dtype: Any = np.uint8) -> "RowFile":
        """Open the rows of a file.

        Raises
        ------
        OSError
            When it is missing or cannot be opened.
        """
        return cls(os.open(path, os.O_RDONLY), shape, dtype)

    @classmethod
    def temporary(cls, folder: Path | None, shape: Sequence[int], dtype: Any, count: int) -> "RowFile":
        """Make room for rows in a file without a name, which is gone with this object or with the process.

        Raises
        ------
        OSError
            When there is no room in the folder, or no right to write there.
        """
        descriptor, name = tempfile.mkstemp(prefix=".rows-", dir=folder)
        rows = cls(descriptor, shape, dtype, count)
        os.unlink(name)
        reserve(descriptor, count * rows.row_bytes)
        return rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.count

    def until(self, count: int) -> "RowFile":
        """Return the first rows alone."""
        first = copy.copy(self)
        first.count = count
        return first

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows at positions, (n,), in their order: (n, *shape), a new array.

        Raises
        ------
        OSError
            When the file is shorter than it was, or cannot be read.
        """
        rows = np.empty((len(positions), *self.shape), dtype=self.dtype)
        content = rows.reshape(-1).view(np.uint8).data
        for start, end in runs_of(positions):
            self._fill(content[start * self.row_bytes : end * self.row_bytes], int(positions[start]) * self.row_bytes)
        return rows

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write rows, (n, *shape), from position `start` on.

        Raises
        ------
        OSError
            When there is no room for them.
        """
        content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        with self._lock:
            self.file.seek(start * self.row_bytes)
            while content:
                content = content[self.file.write(content) :]

    def will_need(self, positions: np.ndarray) -> None:
        """Ask the system to read rows ahead, where it can: they are in memory, then, when they are wanted."""
        for start, end in runs_of(positions) if hasattr(os, "posix_fadvise") else ():
            place, size = int(positions[start]) * self.row_bytes, (end - start) * self.row_bytes
            os.posix_fadvise(self.file.fileno(), place, size, os.POSIX_FADV_WILLNEED)

    def _fill(self, content: memoryview, place: int) -> None:
        with self._lock:
            self.file.seek(place)
            while content:
                count = self.file.readinto(content)
                if not count:
                    raise OSError("a file of decoded images is shorter than it was: it was cut while it was read")
                content = content[count:]


def runs_of(positions: np.ndarray) -> list[tuple[int, int]]:
    """Return where each run of positions that follow each other begins and ends, such as (0, 3) for 7, 8, 9."""
    if not len(positions):
        return []
    breaks = (np.flatnonzero(np.diff(positions) != 1) + 1).tolist()
    return [*zip([0, *breaks], [*breaks, len(positions)], strict=True)]


def reserve(descriptor: int, size: int) -> None:
    """Claim the space of a file, where the system can, so that a full disk is noticed before any work is done.

    Raises
    ------
    OSError
        When the disk is full; not where a file system has no such call.
    """
    claim = getattr(os, "posix_fallocate", None)
    try:
        if claim and size:
            claim(descriptor, 0, size)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
