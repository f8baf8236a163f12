"""Decode many images at once, and note what became of each."""

import errno
import logging
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor

from pretrain.data.decoding import DecodedImage, Size, height_and_width, known_formats
from pretrain.data.encoded_images import EncodedImages
from pretrain.data.pixel_depth import UnreadableImage
from pretrain.data.skipped_files import Skipped
from pretrain.runs.parents import when_parent_ends
from pretrain.runs.progress import Progress

FILES_PER_BLOCK = 256
FILES_FOR_PROCESSES = 4096  # It takes a second to start the processes.
# The images of a block are held in memory twice for a moment.
BYTES_PER_BLOCK = 2**26


@dataclass(frozen=True)
class DecodedBlock:
    """What became of some files that follow each other.

    Attributes
    ----------
    first, files : int
        Position of the first file, and number of files.
    skipped : dict of int to str
        Reason for each file that is no image, by its position.
    passing : list of int
        Positions of the skipped files that could not be read just now, and may be at the next run.
    deep : list of int
        Positions of the images that store 9 to 16 bits a sample.
    deep_peak : int
        Largest value of these, 0 to 255.
    vanished : list of int
        Positions of the transparent images of which nothing can be seen on white.
    """

    first: int
    files: int
    skipped: dict[int, str] = field(default_factory=dict)
    passing: list[int] = field(default_factory=list)
    deep: list[int] = field(default_factory=list)
    deep_peak: int = 0
    vanished: list[int] = field(default_factory=list)

    @property
    def images(self) -> int:
        """The number of images."""
        return self.files - len(self.skipped)

    @property
    def kept(self) -> list[int]:
        """The positions of the images."""
        return [k for k in range(self.first, self.first + self.files) if k not in self.skipped]


Results = Generator[tuple[DecodedBlock, np.ndarray], None, None]


def try_decoding(images: EncodedImages, k: int, size: Size, channels: int) -> DecodedImage | Skipped:
    """Return image `k`, decoded, or why there is none; a passing reason is one of the system's and not of the file."""
    try:
        return images.decode(k, size, channels)
    except UnreadableImage as error:
        return Skipped(images.names[k], str(error))
    # Pillow raises many kinds of errors for damaged files; each means that the file is skipped.
    except Exception as error:
        # Only errors of the system have a number. This one comes from a place in the file that cannot be.
        of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        passing = of_system or isinstance(error, MemoryError) or "out of memory" in str(error)
        text = (error.strerror if of_system else str(error)) or ""  # type: ignore[attr-defined]
        return Skipped(images.names[k], " ".join(f"{type(error).__name__}: {text}".split()).rstrip(": "), passing)


def decode_blocks(encoded: EncodedImages, size: Size, channels: int, start: int = 0) -> Results:
    """Decode images from position `start` on; yield what became of each block of them, and its images in order.

    Many images are decoded by as many processes as there are processors, few by threads.

    Yields
    ------
    DecodedBlock
        What became of the files, or whatever else held the images, of a block.
    ndarray, (n, H, W, channels), uint8
        Its images.
    """
    height, width = height_and_width(size)
    count = len(encoded.names)
    step = max(1, min(FILES_PER_BLOCK, BYTES_PER_BLOCK // (height * width * channels)))
    firsts = range(start, count, step)
    blocks = ((first, encoded.part(first, min(first + step, count)), size, channels) for first in firsts)
    workers = min(cpu_count(), len(firsts))
    several = workers > 1 and count - start >= FILES_FOR_PROCESSES
    with (
        Progress("decoding images", count, initial=start, unit="images") as progress,
        closing(_in_processes(blocks, workers) if several else _here(blocks)) as results,
    ):
        for block, images in results:
            progress.update(block.first + block.files)
            yield block, images


def _here(blocks: Iterable[tuple[Any, ...]]) -> Results:
    """Decode blocks in this process."""
    return (_decoded(*each) for each in blocks)


def _in_processes(blocks: Iterable[tuple[Any, ...]], workers: int) -> Results:
    """Decode blocks in other processes, as far ahead as two blocks for each of them."""
    # joblib's own loop decodes on while nobody takes the blocks, which then fill the memory.
    pool = get_reusable_executor(workers)
    waiting: deque[Future[tuple[DecodedBlock, np.ndarray]]] = deque()
    try:
        for each in blocks:
            waiting.append(pool.submit(_decoded_for, os.getpid(), *each))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for block in waiting:
            block.cancel()


def _decoded_for(parent: int, *block: Any) -> tuple[DecodedBlock, np.ndarray]:
    """Decode one block in a process that ends with the one that started it."""
    _end_with(parent)
    return _decoded(*block)


@cache
def _end_with(parent: int) -> None:
    """Have this process end with its parent: it would wait for more work for ever."""
    when_parent_ends(parent, partial(os._exit, 1))


def _decoded(first: int, encoded: EncodedImages, size: Size, channels: int) -> tuple[DecodedBlock, np.ndarray]:
    """Decode one block, of which the first image has the position `first`."""
    known_formats()  # Threads would otherwise load Pillow's formats at once.
    with _without_pillows_warnings(), ThreadPoolExecutor() as pool:
        results = [*pool.map(lambda k: try_decoding(encoded, k, size, channels), range(len(encoded.names)))]
    pixels = [each.pixels for each in results if isinstance(each, DecodedImage)]
    return _block(first, results), np.array(pixels, dtype=np.uint8).reshape(-1, *height_and_width(size), channels)


def _block(first: int, results: Sequence[DecodedImage | Skipped]) -> DecodedBlock:
    skipped = {k: each for k, each in enumerate(results, first) if isinstance(each, Skipped)}
    images = {k: each for k, each in enumerate(results, first) if isinstance(each, DecodedImage)}
    peaks = {k: each.deep_peak for k, each in images.items() if each.deep_peak is not None}
    return DecodedBlock(
        first,
        len(results),
        {k: each.reason for k, each in skipped.items()},
        [k for k, each in skipped.items() if each.passing],
        [*peaks],
        max(peaks.values(), default=0),
        [k for k, each in images.items() if each.vanished],
    )


@contextmanager
def _without_pillows_warnings() -> Iterator[None]:
    """Silence what Pillow says about odd files: those that it cannot read are listed with their reasons."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
