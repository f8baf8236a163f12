"""What pixels of more than eight bits mean, as gray of eight bits."""

import numpy as np
from PIL import Image
from PIL.TiffTags import TAGS_V2

# Numbers of TIFF's fields.
BITS_PER_SAMPLE, PHOTOMETRIC = (
    next(number for number, tag in TAGS_V2.items() if tag.name == name)
    for name in ("BitsPerSample", "PhotometricInterpretation")
)


class UnreadableImage(Exception):
    """A file that is no image, or none that has a meaning here; the message is the reason."""


def stored_bits(image: Image.Image) -> int:
    """Return the bits of a sample in the file, 8 for fewer; the image must not be loaded yet, which forgets them."""
    if image.format == "TIFF":
        return max(8, *image.tag_v2.get(BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    return 16 if image.mode.startswith("I") or ";16" in _raw_mode(image) else 8


def scale_transparent_color(image: Image.Image) -> None:
    """Scale the color that a PNG declares transparent as Pillow scales its pixels; it must not be loaded yet."""
    key, raw_mode = image.info.get("transparency"), _raw_mode(image)
    if image.format == "PNG" and isinstance(key, int) and raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[raw_mode]
    elif image.format == "PNG" and isinstance(key, tuple) and ";16" in raw_mode:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the layout of an image's pixels in the file; empty if it has none."""
    tiles = getattr(image, "tile", ())
    return str(tiles[0][3]) if tiles else ""


def deep_to_gray(image: Image.Image, bits: int) -> Image.Image:
    """Return an image of mode "I", "I;16" or "F" as gray of mode "L".

    Unsigned integers of 12 or 16 bits are scaled by the full range of their bits, and floating-point values from
    [0, 1]. No image is scaled by its own range, which would change what its values mean.

    Parameters
    ----------
    image : Image
        Loaded image.
    bits : int
        Bits of a sample in the file, from `stored_bits`.

    Raises
    ------
    UnreadableImage
        When a value is not finite or outside [0, 1], or when the integers are signed or have more than 16 bits.
    """
    if image.mode == "F":
        gray = _from_floats(np.asarray(image))
    elif image.mode == "I" and image.format == "TIFF":
        raise UnreadableImage(
            "32-bit or signed integers have no agreed range of brightness: "
            "convert the file to 8 or 16 bits, or to floating point from 0 to 1"
        )
    else:
        gray = _from_integers(np.asarray(image), 2**bits - 1)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        gray = 255 - gray  # Zero is white, which Pillow applies to shallower images only.
    if "transparency" in image.info:
        gray[np.asarray(image) == image.info["transparency"]] = 255
    return Image.fromarray(gray)


def _from_floats(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()  # Either is NaN if any value is.
    if not np.isfinite([low, high]).all():
        raise UnreadableImage("some of its pixels are not finite (NaN or infinite)")
    if low < 0 or high > 1:
        raise UnreadableImage(f"its floating-point pixels run from {low:g} to {high:g}: scale them to 0 to 1")
    scaled = values * np.float32(255)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _from_integers(values: np.ndarray, full: int) -> np.ndarray:
    """Return ``round(values / full * 255)``, in integers to spare memory."""
    scaled = values.astype(np.uint32)
    scaled *= 255
    scaled += full // 2
    scaled //= full
    return scaled.astype(np.uint8)
