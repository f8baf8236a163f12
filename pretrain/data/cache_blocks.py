"""The files of a cache of decoded images, of which each byte is checked before it is used.

A cache is a folder with the pixels of all images and an index of blocks. Each line of the index has a digest of itself,
which follows from the line before, and one of its images. So a cache that is not complete can be extended, and one that
is damaged is good up to there.
"""

import errno
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pretrain.data.parallel_decoding import DecodedBlock
from pretrain.runs.sealed_files import digest_of

IMAGES, INDEX = "images.bin", "index.jsonl"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Stored:
    """The good part of a cache.

    Attributes
    ----------
    blocks : list of DecodedBlock
        The blocks up to the first that is missing or damaged.
    lines : list of bytes
        Their lines of the index.
    rows : ndarray, (N, size, size, channels), uint8
        Their images, mapped: a page is read when it is used, and a change stays in memory.
    damaged : Path, optional
        The file that is damaged or missing, if one is.
    """

    blocks: list[DecodedBlock]
    lines: list[bytes]
    rows: np.ndarray
    damaged: Path | None = None

    @property
    def files(self) -> int:
        """The number of files that the blocks are about."""
        return sum(block.files for block in self.blocks)

    def until(self, number: int) -> "Stored":
        """Return the first blocks alone."""
        blocks = self.blocks[:number]
        return Stored(blocks, self.lines[:number], self.rows[: sum(len(block.kept) for block in blocks)])


def read_cache(folder: Path, key: str, shape: Sequence[int]) -> Stored:
    """Map a cache and verify all of it.

    Parameters
    ----------
    folder : Path
        Folder of the cache.
    key : str
        What the cache is of. A cache of anything else counts as damaged.
    shape : sequence of int
        Shape of an image.
    """
    index = folder / INDEX
    # What follows the last line is one that was not written to its end.
    lines = index.read_bytes().split(b"\n")[:-1] if index.exists() else []
    entries = _good_entries(lines, key)
    blocks, digests = [block for block, _ in entries], [digest for _, digest in entries]
    rows = _mapped(folder / IMAGES, shape)
    ends = np.cumsum([0, *(len(block.kept) for block in blocks)])
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(lambda start, end: digest_of(rows[start:end].data), ends[:-1], ends[1:])]
    good = next((k for k, digest in enumerate(digests) if digest != found[k]), len(blocks))
    stored = Stored(blocks, lines, rows).until(good)
    damaged = folder / IMAGES if good < len(blocks) else index if len(blocks) < len(lines) else None
    return Stored(stored.blocks, stored.lines, stored.rows, damaged)


def _good_entries(lines: Sequence[bytes], key: str) -> list[tuple[DecodedBlock, str]]:
    """Return the block of each line up to the first that is damaged, and the digest of its images."""
    entries, previous = [], key.encode()
    for line in lines:
        own, _, text = line.partition(b" ")
        if own != digest_of(previous + text).encode():
            break
        values = json.loads(text)
        entries.append(
            (DecodedBlock(**{**values["block"], "skipped": dict(values["block"]["skipped"])}), values["images"])
        )
        previous = own
    return entries


def _mapped(file: Path, shape: Sequence[int]) -> np.ndarray:
    count = file.stat().st_size // prod(shape) if file.exists() else 0
    if not count:
        return np.empty((0, *shape), dtype=np.uint8)
    return np.memmap(file, dtype=np.uint8, mode="c", shape=(count, *shape)).view(np.ndarray)


class CacheWriter:
    """Extends a cache that no other process has opened.

    Parameters
    ----------
    folder : Path
        Folder of the cache, which is made if it is missing.
    key : str
        What the cache is of.
    stored : Stored
        The part of it to keep. What follows is removed.
    rows : int
        Largest number of images that the cache will hold. The space for all is reserved.
    shape : sequence of int
        Shape of an image.

    Raises
    ------
    OSError
        When the cache cannot be written, or when there is no space for it.
    """

    def __init__(self, folder: Path, key: str, stored: Stored, rows: int, shape: Sequence[int]):
        folder.mkdir(parents=True, exist_ok=True)
        self.previous = stored.lines[-1].partition(b" ")[0] if stored.lines else key.encode()
        self.images = _opened_at(folder / IMAGES, stored.rows.nbytes)
        self.index = _opened_at(folder / INDEX, sum(len(line) + 1 for line in stored.lines))
        _reserve(self.images, rows * prod(shape))

    def append(self, block: DecodedBlock, images: Sequence[np.ndarray]) -> None:
        """Write the images of a block and its line."""
        content = b"".join(image.tobytes() for image in images)
        self.images.write(content)
        self.images.flush()
        values = {**asdict(block), "skipped": [*block.skipped.items()]}
        text = json.dumps({"images": digest_of(content), "block": values}).encode()
        self.previous = digest_of(self.previous + text).encode()
        self.index.write(self.previous + b" " + text + b"\n")
        self.index.flush()

    def __enter__(self) -> "CacheWriter":
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what was reserved and is not used, and close the files."""
        with self.images, self.index:
            self.images.truncate()


def _opened_at(file: Path, position: int) -> BinaryIO:
    """Open a file, which is made if it is missing, and cut it there."""
    opened = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    opened.truncate(position)
    opened.seek(position)
    return opened


def _reserve(file: BinaryIO, size: int) -> None:
    """Claim the space of a file, where the system can: a full disk is then noticed before any work is done."""
    used = file.tell()
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:
        return
    except OSError as error:
        if error.errno in NO_ROOM:
            with suppress(OSError):
                file.truncate(used)
            raise
