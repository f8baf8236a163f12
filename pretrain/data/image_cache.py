"""Decode image files once, into a cache that later runs map."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout
from PIL import features
from torch import Tensor

from pretrain.data.cache_blocks import INDEX, CacheWriter, Stored, read_cache
from pretrain.data.decoding import DECODER_VERSION, known_formats, require_plain_file
from pretrain.data.image_remarks import remarks_on
from pretrain.data.parallel_decoding import decode_blocks, try_decoding
from pretrain.data.pixel_depth import UnreadableImage
from pretrain.data.skipped_files import Skipped
from pretrain.runs.progress import complain

# The libraries of Pillow that decode pixels or change them.
LIBRARIES = ("jpg", "jpg_2000", "zlib", "libtiff", "webp", "avif", "littlecms2")


@dataclass(frozen=True)
class Decoded:
    """Images that could be read, in the order of their paths.

    Attributes
    ----------
    images : Tensor, (N, C, H, W), uint8
        Images, mapped from the cache: a page is read when it is used. Do not write to them.
    paths : list of Path
        File of each image.
    skipped : list of Skipped
        Files that could not be read.
    remarks : list of str
        Lines for the user on what may be wrong with the images.
    """

    images: Tensor
    paths: list[Path]
    skipped: list[Skipped]
    remarks: list[str] = field(default_factory=list)


def decode_files(paths: Sequence[Path], size: int, channels: int, cache: Path | None) -> Decoded:
    """Decode files, or map the cache of an earlier call.

    Parameters
    ----------
    paths : sequence of Path
        Image files. A file that cannot be read is skipped and listed.
    size, channels : int
        Side in pixels and number of channels, as in `decode_image`.
    cache : Path, optional
        Folder of the caches. A cache is used again as long as each file has the same path, inode, size and times of
        change, and the decoder and its libraries are the same. A folder that cannot be written is told on standard
        error. None decodes into memory.
    """
    files, odd = _plain_files(paths)
    plain = [path for path, _ in files]
    stored = None
    if cache is not None and files:
        try:
            stored = _stored(cache, _fingerprint(files, size, channels), plain, size, channels)
        # Some file systems know no locks.
        except (OSError, NotImplementedError) as error:
            complain(_cannot_be_kept(cache, error))
    if stored is None:
        stored = _in_memory(plain, size, channels)
    skipped = [
        Skipped(str(plain[k]), reason, k in block.passing)
        for block in stored.blocks
        for k, reason in block.skipped.items()
    ]
    skipped = sorted([*odd, *skipped], key=lambda skip: skip.path)
    kept = [plain[k] for block in stored.blocks for k in block.kept]
    images = torch.from_numpy(stored.rows).permute(0, 3, 1, 2)  # channels last in storage
    return Decoded(images, kept, skipped, remarks_on(stored.blocks, plain, skipped))


def _plain_files(paths: Sequence[Path]) -> tuple[list[tuple[Path, os.stat_result]], list[Skipped]]:
    """Return each plain file with its status, and the others, which are never opened."""
    files, skipped = [], []
    for path in paths:
        try:
            files.append((path, require_plain_file(path)))
        except UnreadableImage as error:
            skipped.append(Skipped(str(path), str(error)))
        except OSError as error:
            skipped.append(Skipped(str(path), f"{type(error).__name__}: {error.strerror}", passing=True))
    return files, skipped


def _fingerprint(files: Sequence[tuple[Path, os.stat_result]], size: int, channels: int) -> str:
    """Return a digest of all that the decoded pixels depend on."""
    libraries = [features.version(name) for name in LIBRARIES]
    decoder = f"{DECODER_VERSION} {PIL.__version__} {libraries} {known_formats()} {size} {channels}"
    digest = blake2b(decoder.encode(), digest_size=16)
    for path, status in files:
        seen = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest.update(os.fsencode(path.absolute()) + f"|{seen}\n".encode())
    return digest.hexdigest()


def _in_memory(paths: Sequence[Path], size: int, channels: int) -> Stored:
    rows = np.empty((len(paths), size, size, channels), dtype=np.uint8)
    blocks, count = [], 0
    for block, images in decode_blocks(paths, size, channels):
        blocks.append(block)
        for image in images:
            rows[count] = image
            count += 1
    return Stored(blocks, [], rows[:count])


def _stored(cache: Path, key: str, paths: Sequence[Path], size: int, channels: int) -> Stored:
    """Return the cache of some files, after whatever of it is missing is decoded.

    Raises
    ------
    OSError, NotImplementedError
        When there is no cache, and none can be written.
    """
    if str(cache).startswith("~"):
        raise OSError("there is no home folder")
    stored = _still_valid(read_cache(cache / key, key, (size, size, channels)), paths, size, channels)
    if stored.files == len(paths):
        return stored
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f"{key}.lock"):
        return _completed(cache / key, cache / f"{key}.part", paths, size, channels)


def _completed(complete: Path, part: Path, paths: Sequence[Path], size: int, channels: int) -> Stored:
    """Complete a cache, which another process may have done meanwhile.

    A cache in its place is never changed, since other processes may have mapped it, but only replaced.
    """
    key, shape = complete.name, (size, size, channels)
    place = complete if complete.exists() else part
    found = read_cache(place, key, shape)
    _tell_damage(found, place, len(paths) if place == complete else 0)
    stored = _still_valid(found, paths, size, channels)
    if place == complete and stored.files == len(paths):
        return stored
    if place == complete:
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(complete, part)
        shutil.rmtree(complete)
    with CacheWriter(part, key, stored, len(paths), shape) as writer:
        for block, images in decode_blocks(paths, size, channels, stored.files):
            writer.append(block, images)
    part.rename(complete)
    return read_cache(complete, key, shape)


def _still_valid(stored: Stored, paths: Sequence[Path], size: int, channels: int) -> Stored:
    """Return the blocks before the first with a file that could not be read and now can be."""
    for number, block in enumerate(stored.blocks):
        again = (try_decoding(paths[k], size, channels) for k in block.passing)
        if not all(isinstance(each, Skipped) and each.passing for each in again):
            return stored.until(number)
    return stored


def _tell_damage(stored: Stored, folder: Path, files: int) -> None:
    damaged = stored.damaged or (folder / INDEX if stored.files < files else None)
    if damaged:
        complain(f"{damaged} is damaged or cut: the images after the first {len(stored.rows):,} are decoded again")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock, which a process that ends gives back, however it ends."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=1)
    except Timeout:
        complain("another process decodes the same images: waiting for it")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _cannot_be_kept(cache: Path, error: Exception) -> str:
    reason = (isinstance(error, OSError) and error.strerror) or error
    return (
        f"data.cache={cache}: decoded images cannot be kept there ({reason}), so they stay in memory, and the next run "
        "decodes them again; give data.cache another folder, or data.cache=null to keep none"
    )
