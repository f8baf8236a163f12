"""Decode image files of any kind to arrays of one size."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PILLOW_MODES = {1: "L", 3: "RGB"}


def decode_image(path: Path, size: int, channels: int) -> np.ndarray:
    """Read an image, scale its shorter side to `size` and crop the center.

    EXIF rotation is applied, and transparent images are put on white.

    Parameters
    ----------
    path : Path
        File in any format and mode that Pillow reads. An animation gives its first frame.
    size : int
        Side of the result in pixels.
    channels : {1, 3}
        Number of channels: 1 for gray, 3 for RGB.

    Returns
    -------
    ndarray, (size, size, channels), uint8

    Raises
    ------
    Exception
        Any error that Pillow raises for a file that it cannot read.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")):
            image = _to_eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = ImageOps.fit(image.convert(PILLOW_MODES[channels]), (size, size), Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray by its full range and other deep modes by the image's own, where Pillow would clip."""
    pixels = np.asarray(image, dtype=np.float64)
    low, high = (0, 65535) if image.mode.startswith("I;16") else (pixels.min(), pixels.max())
    return Image.fromarray(np.uint8(np.rint((pixels - low) / max(high - low, 1e-12) * 255)))


def list_files(folder: Path) -> list[Path]:
    """Return every file at any depth below `folder`, sorted by path, without hidden ones.

    Links to folders are followed, except to a folder that contains the link, which would never end.
    """
    found = []
    # For each folder still to be searched: the folders on the way to it, including itself.
    passed = {os.fspath(folder): {folder.resolve()}}
    for root, folders, names in os.walk(folder, followlinks=True):
        above = passed.pop(root) | {*Path(root).resolve().parents}
        folders[:] = [name for name in folders if name[0] != "." and Path(root, name).resolve() not in above]
        passed |= {os.path.join(root, name): above | {Path(root, name).resolve()} for name in folders}
        found += [Path(root, name) for name in names if name[0] != "."]
    return sorted(found)
