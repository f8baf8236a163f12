"""Samples in WebDataset's tar shards: files that share a name up to its first dot, such as ``7.jpg`` and ``7.cls``.

The library webdataset streams shards from their beginning to their end. Here images are read in any order, by several
processes, so shards are indexed by Python's tarfile.
"""

import glob
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from pretrain.data.decoding import DecodedImage, Size, decode_stream
from pretrain.data.encoded_images import seen
from pretrain.data.pixel_depth import UnreadableImage
from pretrain.data.skipped_files import Skipped
from pretrain.errors import UserError

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
IMAGES = frozenset(
    "jpg jpeg png webp gif bmp tif tiff ppm pgm pbm pfm jp2 avif heic heif tga pcx sgi qoi ico".split()  # noqa: SIM905
)
LONGEST_LABEL = 1000  # bytes


@dataclass(frozen=True)
class TarImages:
    """Images within tar files, as `EncodedImages`.

    Attributes
    ----------
    names : sequence of str, (N,)
        Shard and name in it.
    shards : sequence of str
        The files.
    places : ndarray, (N, 3), int64
        Of each image the number of its shard, and where its bytes begin and end there.
    key : bytes
        Digest of the shards and the places.
    """

    names: Sequence[str]
    shards: Sequence[str]
    places: np.ndarray
    key: bytes = b""

    def part(self, start: int, end: int) -> "TarImages":
        """Return some of the images."""
        return TarImages(self.names[start:end], self.shards, self.places[start:end])

    def subset(self, kept: Sequence[int]) -> "TarImages":
        """Return the images at some positions."""
        return _with_key([self.names[k] for k in kept], self.shards, self.places[list(kept)])

    def decode(self, k: int, size: Size, channels: int) -> DecodedImage:
        """Return image `k`."""
        number, start, end = self.places[k].tolist()
        with open(self.shards[number], "rb") as file:
            file.seek(start)
            content = file.read(end - start)
        if len(content) < end - start:
            raise UnreadableImage("the shard ends before it")
        return decode_stream(io.BytesIO(content), Path(self.names[k]).suffix, size, channels)


def _with_key(names: Sequence[str], shards: Sequence[str], places: np.ndarray) -> TarImages:
    digest = blake2b(places.tobytes(), digest_size=16)
    for shard in shards:
        digest.update(os.fsencode(os.path.abspath(shard)) + b"|" + seen(os.stat(shard)))
    return TarImages(names, shards, places, digest.digest())


@dataclass
class _Sample:
    """The members of a shard that share a name."""

    image: tarfile.TarInfo | None = None
    label: str | None = None


@dataclass(frozen=True)
class Samples:
    """What is in some shards.

    Attributes
    ----------
    images : TarImages
        The image of each sample that has one; the first, where it has several.
    labels : list of str or None
        Its label, if it has one.
    skipped : list of Skipped
        Samples without an image.
    """

    images: TarImages
    labels: list[str | None]
    skipped: list[Skipped] = field(default_factory=list)


def are_shards(name: str | Path) -> bool:
    """Return whether a name or pattern is one of tar files."""
    return str(name).endswith(ENDINGS)


def read_shards(names: Sequence[str | Path], where: str, label: str = "cls") -> Samples:
    """Index shards; no image is read.

    Parameters
    ----------
    names : sequence of str or Path
        Tar files, folders of them, or patterns such as ``train-{000..127}.tar`` and ``train-*.tar``.
    where : str
        Name of the setting, for messages.
    label : str
        Ending of the files that hold the labels.

    Raises
    ------
    UserError
        When there is no such file, or it is no tar file that can be read in any order.
    """
    shards = expanded(names, where)
    found, places, labels, skipped = [], [], [], []
    for number, shard in enumerate(shards):
        for name, sample in _samples(shard, label).items():
            if sample.image is None:
                skipped.append(Skipped(f"{shard}/{name}", "a sample without an image"))
                continue
            start = sample.image.offset_data
            found.append(f"{shard}/{sample.image.name}")
            places.append((number, start, start + sample.image.size))
            labels.append(sample.label)
    array = np.array(places, dtype=np.int64).reshape(-1, 3)
    return Samples(_with_key(found, shards, array), labels, skipped)


def expanded(names: Sequence[str | Path], where: str) -> list[str]:
    """Return the shards that names and patterns stand for.

    Raises
    ------
    UserError
        When there is no such file.
    """
    return [shard for name in names for shard in _expanded(str(name), where)]


def _expanded(pattern: str, where: str) -> list[str]:
    """Return the shards that a name or a pattern stands for."""
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "*.tar")
    found = []
    for name in _numbered(pattern):
        matches = [name] if os.path.isfile(name) else sorted(glob.glob(name))
        if not matches:
            raise UserError(f"{where}={pattern}: there is no file {name}.")
        found += matches
    return found


def _numbered(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern with a range of numbers in braces stands for, as in ``{000..127}``."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not braces:
        yield pattern
        return
    first, last = braces[1], braces[2]
    for k in range(int(first), int(last) + 1):
        yield from _numbered(f"{pattern[: braces.start()]}{k:0{len(first)}}{pattern[braces.end() :]}")


def _samples(shard: str, label: str) -> dict[str, _Sample]:
    """Return the samples of a shard by their names, in its order."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, base = os.path.split(member.name)
                stem, _, ending = base.partition(".")
                # What the library passes over, and what systems leave in archives.
                if not member.isreg() or not stem or (stem.startswith("__") and base.endswith("__")):
                    continue
                sample = samples.setdefault(os.path.join(folder, stem), _Sample())
                if ending.lower() in IMAGES and sample.image is None:
                    sample.image = member
                elif ending == label:
                    sample.label = _text_of(tar, member, shard)
    except tarfile.TarError as error:
        if Path(shard).suffix != ".tar":
            advice = "a compressed shard cannot be read in any order: unpack it to a .tar file"
        else:
            advice = "it is damaged, compressed or no tar file: write it again"
        raise UserError(f"{shard} cannot be read ({error}): {advice}.") from None
    return samples


def _text_of(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: str) -> str | None:
    """Return a label; None where it is empty."""
    opened = tar.extractfile(member)
    content = opened.read(LONGEST_LABEL + 1) if opened else b""
    try:
        if len(content) > LONGEST_LABEL:
            raise ValueError
        return content.decode().strip() or None
    except ValueError:
        raise UserError(
            f"{shard}: {member.name} is no label, which is a number or a name in UTF-8: "
            "give the ending of the labels as data.label."
        ) from None
