"""Decode one image file of any kind to bytes of one size."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB"}


def decode_image(path: Path, size: int, channels: int) -> np.ndarray:
    """Read one file: EXIF rotation applied, transparency on white, shorter side scaled to `size`, center kept.

    Parameters
    ----------
    path : Path
        A file in any format and mode that Pillow reads; of an animation, the first frame.
    size : int
        Side in pixels of the result.
    channels : {1, 3}
        Gray or RGB.

    Returns
    -------
    ndarray, (size, size, channels), uint8

    Raises
    ------
    Exception
        Whatever Pillow raises on a damaged or foreign file.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")):
            image = _to_eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = ImageOps.fit(image.convert(MODES[channels]), (size, size), Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray (I;16) by its full range, and other deep modes by their own; Pillow would clip them."""
    pixels = np.asarray(image, dtype=np.float64)
    low, high = (0, 65535) if image.mode.startswith("I;16") else (pixels.min(), pixels.max())
    return Image.fromarray(np.uint8(np.rint((pixels - low) / max(high - low, 1e-12) * 255)))


def list_files(folder: Path) -> list[Path]:
    """Return every file below `folder`, sorted by path, whatever its depth; hidden ones are left out.

    Links to folders are followed, but into none of those that they lie in, nor in circles.
    """
    found = []
    passed = {os.fspath(folder): {folder.resolve()}}  # to each folder that is still to be looked at, itself among them
    for root, folders, names in os.walk(folder, followlinks=True):
        above = passed.pop(root) | {*Path(root).resolve().parents}
        folders[:] = [name for name in folders if name[0] != "." and Path(root, name).resolve() not in above]
        passed |= {os.path.join(root, name): above | {Path(root, name).resolve()} for name in folders}
        found += [Path(root, name) for name in names if name[0] != "."]
    return sorted(found)
