"""The files of a cache of decoded images, of which each byte is checked before it is used.

A cache is a folder with an index of blocks, and a file for each kind of rows that images have, such as their pixels.
Each line of the index has a digest of itself, which follows from the line before, and one of its rows of each kind. So
a cache that is not complete can be extended, and one that is damaged is good up to there.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pretrain.data.parallel_decoding import DecodedBlock
from pretrain.data.row_files import RowFile, reserve
from pretrain.runs.sealed_files import digest_of

INDEX = "index.jsonl"

# The shape and the type of the rows of each kind.
RowTypes = Mapping[str, tuple[Sequence[int], Any]]


@dataclass(frozen=True)
class Stored:
    """The good part of a cache.

    Attributes
    ----------
    blocks : list of DecodedBlock
        The blocks up to the first that is missing or damaged.
    lines : list of bytes
        Their lines of the index.
    rows : dict of str to RowFile
        The rows of their images, of each kind. A file that is missing is left out.
    damaged : Path, optional
        The file that is damaged or missing, if one is.
    """

    blocks: list[DecodedBlock]
    lines: list[bytes]
    rows: dict[str, RowFile]
    damaged: Path | None = None

    @property
    def files(self) -> int:
        """The number of files that the blocks are about."""
        return sum(block.files for block in self.blocks)

    @property
    def images(self) -> int:
        """The number of images in the blocks."""
        return sum(block.images for block in self.blocks)

    def until(self, number: int) -> "Stored":
        """Return the first blocks alone."""
        first = Stored(self.blocks[:number], self.lines[:number], {}, self.damaged)
        return Stored(first.blocks, first.lines, {k: each.until(first.images) for k, each in self.rows.items()})


def file_of(folder: Path, kind: str) -> Path:
    """Return the file of the rows of a kind."""
    return folder / f"{kind}.bin"


def read_cache(folder: Path, key: str, types: RowTypes) -> Stored:
    """Open a cache and verify all of it.

    Parameters
    ----------
    folder : Path
        Folder of the cache.
    key : str
        What the cache is of. A cache of anything else counts as damaged.
    types : mapping of str to (shape, type)
        The rows that an image has.
    """
    index = folder / INDEX
    # What follows the last line is one that was not written to its end.
    lines = index.read_bytes().split(b"\n")[:-1] if index.exists() else []
    entries = _good_entries(lines, key)
    blocks, digests = [block for block, _ in entries], [digests for _, digests in entries]
    there = {kind: row for kind, row in types.items() if file_of(folder, kind).exists()}
    rows = {kind: RowFile.at(file_of(folder, kind), *row) for kind, row in there.items()}
    stored, damaged = Stored(blocks, lines, rows), index if len(blocks) < len(lines) else None
    for kind in types:
        wanted = [each.get(kind) for each in digests[: len(stored.blocks)]]
        good = _good_blocks(stored.blocks, rows.get(kind), wanted)
        if good < len(stored.blocks):
            stored, damaged = stored.until(good), file_of(folder, kind)
    kept = stored.until(len(stored.blocks))
    return Stored(kept.blocks, kept.lines, kept.rows, damaged)


def _good_entries(lines: Sequence[bytes], key: str) -> list[tuple[DecodedBlock, dict[str, str]]]:
    """Return the block of each line up to the first that is damaged, and the digests of its rows."""
    entries, previous = [], key.encode()
    for line in lines:
        own, _, text = line.partition(b" ")
        if own != digest_of(previous + text).encode():
            break
        values = json.loads(text)
        block = DecodedBlock(**{**values["block"], "skipped": dict(values["block"]["skipped"])})
        entries.append((block, values["digests"]))
        previous = own
    return entries


def _good_blocks(blocks: Sequence[DecodedBlock], rows: RowFile | None, digests: Sequence[str | None]) -> int:
    """Return how many blocks there are before the first whose rows are not those of its digest."""
    if rows is None:
        return 0
    ends = np.cumsum([0, *(block.images for block in blocks)]).tolist()
    with ThreadPoolExecutor() as pool:
        found = pool.map(partial(_digest, rows), ends[:-1], ends[1:])
        return next((k for k, each in enumerate(found) if each != digests[k]), len(blocks))


def _digest(rows: RowFile, start: int, end: int) -> str | None:
    """Return the digest of rows, or None where the file does not have them all."""
    return digest_of(rows.read(np.arange(start, end)).data) if end <= len(rows) else None


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
    count : int
        Largest number of images that the cache will hold. The space for all is reserved.
    types : mapping of str to (shape, type)
        The rows that an image has.

    Raises
    ------
    OSError
        When the cache cannot be written, or when there is no space for it.
    """

    def __init__(self, folder: Path, key: str, stored: Stored, count: int, types: RowTypes):
        folder.mkdir(parents=True, exist_ok=True)
        self.previous = stored.lines[-1].partition(b" ")[0] if stored.lines else key.encode()
        self.index = _opened_at(folder / INDEX, sum(len(line) + 1 for line in stored.lines))
        sizes = {kind: np.empty(shape, dtype).nbytes for kind, (shape, dtype) in types.items()}
        self.files = {kind: _opened_at(file_of(folder, kind), stored.images * size) for kind, size in sizes.items()}
        for kind, size in sizes.items():
            _reserve(self.files[kind], count * size)

    def append(self, block: DecodedBlock, rows: Mapping[str, np.ndarray]) -> None:
        """Write the rows of the images of a block, and its line."""
        for kind, values in rows.items():
            self.files[kind].write(np.ascontiguousarray(values).data)
            self.files[kind].flush()
        digests = {kind: digest_of(np.ascontiguousarray(values).data) for kind, values in rows.items()}
        text = json.dumps(
            {"digests": digests, "block": {**asdict(block), "skipped": [*block.skipped.items()]}}
        ).encode()
        self.previous = digest_of(self.previous + text).encode()
        self.index.write(self.previous + b" " + text + b"\n")
        self.index.flush()

    def __enter__(self) -> "CacheWriter":
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what was reserved and is not used, and close the files."""
        for file in (*self.files.values(), self.index):
            with file:
                file.truncate()


def _opened_at(file: Path, position: int) -> BinaryIO:
    """Open a file, which is made if it is missing, and cut it there."""
    opened = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    opened.truncate(position)
    opened.seek(position)
    return opened


def _reserve(file: BinaryIO, size: int) -> None:
    """Claim the space of a file; give back what was claimed where there is too little."""
    used = file.tell()
    try:
        reserve(file.fileno(), size)
    except OSError:
        with suppress(OSError):
            file.truncate(used)
        raise
