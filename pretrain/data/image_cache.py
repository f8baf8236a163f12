"""Decode images once, into a cache that later runs map."""

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

from pretrain.data.cache_blocks import INDEX, CacheWriter, RowTypes, Stored, read_cache
from pretrain.data.decoding import DECODER_VERSION, Name, Size, height_and_width, known_formats
from pretrain.data.encoded_images import EncodedImages, image_files
from pretrain.data.fingerprints import FINGERPRINT, fingerprints
from pretrain.data.image_remarks import remarks_on
from pretrain.data.lazy_images import LazyImages, Part, as_lazy
from pretrain.data.leakage_check import Named
from pretrain.data.parallel_decoding import DecodedBlock, decode_blocks, try_decoding
from pretrain.data.skipped_files import Skipped
from pretrain.runs.progress import complain

# The libraries of Pillow that decode pixels or change them.
LIBRARIES = ("jpg", "jpg_2000", "zlib", "libtiff", "webp", "avif", "littlecms2")


@dataclass(frozen=True)
class Decoded:
    """Images that could be read, in the order of their paths.

    Attributes
    ----------
    images : LazyImages, (N, C, H, W), uint8
        Images, read from the cache when they are used.
    paths : list of str
        File of each image.
    skipped : list of Skipped
        Files that could not be read.
    remarks : list of str
        Lines for the user on what may be wrong with the images.
    """

    images: LazyImages
    paths: list[str]
    skipped: list[Skipped]
    remarks: list[str] = field(default_factory=list)

    @property
    def named(self) -> Named:
        """The images with their paths as names."""
        return Named(self.images, self.paths)


def decode_files(paths: Sequence[Name], size: Size, channels: int, cache: Path | None) -> Decoded:
    """Decode files, or open the cache of an earlier call.

    Parameters
    ----------
    paths : sequence of str or Path
        Image files. A file that cannot be read is skipped and listed.
    size, channels
        Side in pixels (or height and width), and number of channels, as in `decode_image`.
    cache : Path, optional
        Folder of the caches. A cache is used again as long as each file has the same path, inode, size and times of
        change, and the decoder and its libraries are the same. A folder that cannot be written is told on standard
        error. None decodes into memory.
    """
    files, odd = image_files(paths)
    return decode_images(files, size, channels, cache, odd)


def decode_images(
    encoded: EncodedImages, size: Size, channels: int, cache: Path | None, odd: Sequence[Skipped] = ()
) -> Decoded:
    """Decode images of any kind, or open the cache of an earlier call.

    Parameters
    ----------
    encoded : EncodedImages
        The images. A cache is used again as long as their key, the decoder and its libraries are the same.
    size, channels, cache
        As in `decode_files`.
    odd : sequence of Skipped
        What is known to be no image already.
    """
    form, names = _Form(height_and_width(size), channels), encoded.names
    blocks, images = None, None
    if cache is not None and len(names):
        try:
            stored = _stored(cache, encoded, form)
            blocks, images = stored.blocks, LazyImages([_part(stored)])
        # Some file systems know no locks.
        except (OSError, NotImplementedError) as error:
            complain(_cannot_be_kept(cache, error))
    if blocks is None or images is None:
        blocks, images = _in_memory(encoded, form)
    skipped = [Skipped(names[k], reason, k in block.passing) for block in blocks for k, reason in block.skipped.items()]
    skipped = sorted([*odd, *skipped], key=lambda skip: skip.path)
    kept = [names[k] for block in blocks for k in block.kept]
    return Decoded(images, kept, skipped, remarks_on(blocks, names, skipped))


@dataclass(frozen=True)
class _Form:
    """What images are decoded to: their height and width, and the number of their channels."""

    size: tuple[int, int]
    channels: int

    @property
    def types(self) -> RowTypes:
        """The rows that the cache has of an image."""
        return {"images": ((*self.size, self.channels), np.uint8), "fingerprints": ((), FINGERPRINT)}

    def key_of(self, encoded: EncodedImages) -> str:
        """Return a digest of all that the decoded pixels depend on."""
        libraries = [features.version(name) for name in LIBRARIES]
        decoder = f"{DECODER_VERSION} {PIL.__version__} {libraries} {known_formats()} {self.size} {self.channels}"
        return blake2b(decoder.encode() + encoded.key, digest_size=16).hexdigest()

    def decode(self, encoded: EncodedImages, start: int = 0) -> Iterator[tuple[DecodedBlock, np.ndarray]]:
        """Yield what became of each block of images, and those of it that are decoded."""
        return decode_blocks(encoded, self.size, self.channels, start)


def _in_memory(encoded: EncodedImages, form: _Form) -> tuple[list[DecodedBlock], LazyImages]:
    rows = np.empty((len(encoded.names), *form.size, form.channels), dtype=np.uint8)
    blocks, count = [], 0
    for block, images in form.decode(encoded):
        blocks.append(block)
        rows[count : count + len(images)] = images
        count += len(images)
    return blocks, as_lazy(torch.from_numpy(rows[:count]).permute(0, 3, 1, 2))


def _part(stored: Stored) -> Part:
    """Return the images of a cache, with their fingerprints, which take little memory."""
    prints = stored.rows["fingerprints"]
    return Part(stored.rows["images"], prints.read(np.arange(len(prints))))


def _stored(cache: Path, encoded: EncodedImages, form: _Form) -> Stored:
    """Return the cache of some images, after whatever of it is missing is decoded.

    Raises
    ------
    OSError, NotImplementedError
        When there is no cache, and none can be written.
    """
    if str(cache).startswith("~"):
        raise OSError("there is no home folder")
    key = form.key_of(encoded)
    stored = _still_valid(read_cache(cache / key, key, form.types), encoded, form)
    if stored.files == len(encoded.names):
        return stored
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f"{key}.lock"):
        return _completed(cache / key, cache / f"{key}.part", encoded, form)


def _completed(complete: Path, part: Path, encoded: EncodedImages, form: _Form) -> Stored:
    """Complete a cache, which another process may have done meanwhile.

    A cache in its place is never changed, since other processes may have opened it, but only replaced.
    """
    key, count = complete.name, len(encoded.names)
    place = complete if complete.exists() else part
    found = read_cache(place, key, form.types)
    _tell_damage(found, place, count if place == complete else 0)
    stored = _still_valid(found, encoded, form)
    if place == complete and stored.files == count:
        return stored
    if place == complete:
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(complete, part)
        shutil.rmtree(complete)
    with CacheWriter(part, key, stored, count, form.types) as writer:
        for block, images in form.decode(encoded, stored.files):
            prints = fingerprints(torch.from_numpy(images).permute(0, 3, 1, 2))
            writer.append(block, {"images": images, "fingerprints": prints})
    part.rename(complete)
    return read_cache(complete, key, form.types)


def _still_valid(stored: Stored, encoded: EncodedImages, form: _Form) -> Stored:
    """Return the blocks before the first with a file that could not be read and now can be."""
    for number, block in enumerate(stored.blocks):
        again = (try_decoding(encoded, k, form.size, form.channels) for k in block.passing)
        if not all(isinstance(each, Skipped) and each.passing for each in again):
            return stored.until(number)
    return stored


def _tell_damage(stored: Stored, folder: Path, files: int) -> None:
    damaged = stored.damaged or (folder / INDEX if stored.files < files else None)
    if damaged:
        complain(f"{damaged} is damaged or cut: the images after the first {stored.images:,} are decoded again")


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
