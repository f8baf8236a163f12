"""Images that are not decoded yet, wherever they are: each kind says how one of them is decoded."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np

from pretrain.data.decoding import DecodedImage, Name, Size, decode_array, decode_image, require_plain_file
from pretrain.data.pixel_depth import UnreadableImage
from pretrain.data.skipped_files import Skipped


class EncodedImages(Protocol):
    """Images in an order, which are sent to other processes in parts.

    Attributes
    ----------
    names : sequence of str
        Name of each: its path if it has one.
    key : bytes
        Digest of all that the decoded pixels depend on, besides the decoder. A part needs none.
    """

    @property
    def names(self) -> Sequence[str]:
        """The name of each image."""

    @property
    def key(self) -> bytes:
        """The digest of what the pixels depend on."""

    def part(self, start: int, end: int) -> "EncodedImages":
        """Return some of the images, as they are sent to another process."""

    def decode(self, k: int, size: Size, channels: int) -> DecodedImage:
        """Return image `k`, or raise what `decode_image` raises."""


@dataclass(frozen=True)
class ImageFiles:
    """Plain files."""

    names: Sequence[str]
    key: bytes = b""

    def part(self, start: int, end: int) -> "ImageFiles":
        """Return some of the files."""
        return ImageFiles(self.names[start:end])

    def decode(self, k: int, size: Size, channels: int) -> DecodedImage:
        """Return the image of file `k`."""
        return decode_image(self.names[k], size, channels)


def image_files(paths: Iterable[Name]) -> tuple[ImageFiles, list[Skipped]]:
    """Return the plain files among some, and the others, which are never opened."""
    files, skipped, here, digest = [], [], os.getcwd(), blake2b(digest_size=16)
    for name in paths:
        path = os.fspath(name)
        try:
            status = require_plain_file(path)
        except UnreadableImage as error:
            skipped.append(Skipped(path, str(error)))
        except OSError as error:
            skipped.append(Skipped(path, f"{type(error).__name__}: {error.strerror}", passing=True))
        else:
            files.append(path)
            digest.update(os.fsencode(os.path.join(here, path)) + b"|" + seen(status))
    return ImageFiles(files, digest.digest()), skipped


def seen(status: os.stat_result) -> bytes:
    """Return what of a file's status changes whenever its content does."""
    return f"{(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)}\n".encode()


@dataclass(frozen=True)
class PixelArrays:
    """Images that need no decoding, but perhaps another size or number of channels.

    Attributes
    ----------
    arrays : ndarray, (N, H, W) or (N, H, W, 3), uint8
        Their pixels; a part of them is copied when it is sent.
    names : sequence of str, (N,)
        Their names.
    key : bytes
        Digest of the content, or of the file that holds it.
    """

    arrays: np.ndarray
    names: Sequence[str]
    key: bytes = b""

    def part(self, start: int, end: int) -> "PixelArrays":
        """Return some of the images."""
        return PixelArrays(np.ascontiguousarray(self.arrays[start:end]), self.names[start:end])

    def decode(self, k: int, size: Size, channels: int) -> DecodedImage:
        """Return image `k`."""
        return decode_array(self.arrays[k], size, channels)
