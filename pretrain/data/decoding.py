"""Decode image files of many kinds to arrays of one size."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from PIL import ExifTags, Image, ImageOps

from pretrain.data.pixel_depth import UnreadableImage, deep_to_gray, scale_transparent_color, stored_bits

# Increase this number when decoding changes, so that older caches are not used.
DECODER_VERSION = 3
# Pillow's names of the formats that are tried. Others are none of photographs and drawings, or run other programs, as
# EPS does. HEIF is read where pillow-heif is installed.
FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "HEIF"),
    *("JPEG2000", "PPM", "ICO", "PCX", "SGI", "QOI"),
)
# A TGA file is told from random bytes by its name only.
FORMATS_BY_SUFFIX = {".tga": "TGA"}
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# Larger images, beyond those of common cameras, are decoded one at a time, by whatever number of processes.
LARGE = 2**25  # pixels
# Of a longer strip, less than a hundredth would be left by the crop of its center.
LONGEST_STRIP = 100  # times its width
NEARLY_WHITE = 250  # of 255
Name = str | Path
Size = int | tuple[int, int]  # one side, or height and width
PILLOW_MODES = {1: "L", 3: "RGB"}
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NO_PLAIN_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@dataclass(frozen=True)
class DecodedImage:
    """An image of the size asked for, and what a set of images is told about.

    Attributes
    ----------
    pixels : ndarray, (H, W, channels), uint8
        The image.
    deep_peak : int, optional
        Largest value, 0 to 255, before the image is scaled; None unless the file stores 9 to 16 bits a sample.
    vanished : bool
        Whether nothing can be seen of the image, which is transparent, on white.
    """

    pixels: np.ndarray
    deep_peak: int | None = None
    vanished: bool = False


def height_and_width(size: Size) -> tuple[int, int]:
    """Return the height and the width of an image of a size."""
    return (size, size) if isinstance(size, int) else size


def decode_image(path: Name, size: Size, channels: int) -> DecodedImage:
    """Read an image, scale it to the smallest size that covers `size`, and crop the center.

    EXIF rotation is applied, and transparent images are put on white. Of several frames or pages, the first is read.

    Parameters
    ----------
    path : str or Path
        File in one of the `FORMATS`, in any mode. It is opened only if it is a plain file.
    size : int or (int, int)
        Side of the result in pixels, or its height and width.
    channels : {1, 3}
        Number of channels: 1 for gray, 3 for RGB.

    Raises
    ------
    UnreadableImage
        When the file is no image, or too large, or when its pixels have no agreed meaning.
    OSError, MemoryError
        When the file could not be read just now.
    Exception
        Any error that Pillow raises for a damaged file.
    """
    path = Path(path)
    require_plain_file(path)
    # Pillow maps files that it opens itself; one that is cut meanwhile would then end the process.
    with path.open("rb") as file:
        return decode_stream(file, path.suffix, size, channels)


def decode_stream(file: BinaryIO, suffix: str, size: Size, channels: int) -> DecodedImage:
    """Read an image from an open file, whose name ends with `suffix`, as `decode_image` does."""
    with _opened(file, suffix) as image:
        _check_sides(*image.size)
        with _one_at_a_time() if image.width * image.height > LARGE else nullcontext():
            return _decoded(image, size, channels)


def decode_array(pixels: np.ndarray, size: Size, channels: int) -> DecodedImage:
    """Bring pixels, (H, W) or (H, W, 3), uint8, to a size and a number of channels, as `decode_image` does."""
    return _decoded(Image.fromarray(pixels), size, channels)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait until no other thread or process of the user decodes a large image; where nothing can be locked, go on."""
    lock = None
    with suppress(OSError, NotImplementedError):
        lock = FileLock(Path(tempfile.gettempdir(), "pretrain-large-image.lock"))
        lock.acquire()
    try:
        yield
    finally:
        if lock:
            lock.release()


def require_plain_file(path: Name) -> os.stat_result:
    """Return the status of a plain file, through links.

    Raises
    ------
    UnreadableImage
        When it is none, such as a named pipe, or a link that leads nowhere.
    OSError
        When the file could not be looked at just now.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
            raise UnreadableImage("a link to nothing, or in a circle") from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage(f"{NO_PLAIN_FILES.get(stat.S_IFMT(status.st_mode), 'something')}, not a file")
    return status


@cache
def known_formats() -> tuple[str, ...]:
    """Return those of the `FORMATS` that Pillow reads here."""
    Image.init()
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(file: BinaryIO, suffix: str) -> Image.Image:
    beginning = file.read(12)
    if not beginning:
        raise UnreadableImage("the file is empty")
    named = FORMATS_BY_SUFFIX.get(suffix.lower())
    try:
        return Image.open(file, formats=(*known_formats(), *([named] if named else ())))
    except Image.UnidentifiedImageError:
        if beginning[4:8] == b"ftyp" and beginning[8:12] in HEIC_BRANDS:
            raise UnreadableImage("HEIC is not read here: install pillow-heif, or convert the file") from None
        raise UnreadableImage("not an image in a format that is read, or its beginning is damaged") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImage(f"it has more than {most:,} pixels: scale it down") from None


def _check_sides(width: int, height: int) -> None:
    if max(width, height) > LONGEST_STRIP * min(width, height):
        raise UnreadableImage(
            f"a strip of {width:,} x {height:,} pixels, of which the center would show next to nothing: cut it up"
        )


def _decoded(image: Image.Image, size: Size, channels: int) -> DecodedImage:
    bits = stored_bits(image)
    scale_transparent_color(image)
    image.load()
    transpose = _transpose(image)
    if image.mode.startswith(("I", "F")):
        image = deep_to_gray(image, bits)
    if image.mode == "LAB":
        image = image.convert("RGB")  # Pillow has no way to gray.
    transparent = image.has_transparency_data
    if transparent:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != PILLOW_MODES[channels]:
        image = image.convert(PILLOW_MODES[channels])
    if transpose is not None:
        image = image.transpose(transpose)
    peak = int(np.max(image.getextrema())) if 8 < bits <= 16 else None
    height, width = height_and_width(size)
    image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, channels)
    return DecodedImage(pixels, peak, bool(transparent and pixels.min() >= NEARLY_WHITE))


def _transpose(image: Image.Image) -> Image.Transpose | None:
    """Return what turns a loaded image upright; a damaged EXIF block says nothing."""
    try:
        return TRANSPOSES.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Pillow raises many kinds of errors for it, and the pixels are intact.
    except Exception:
        return None
