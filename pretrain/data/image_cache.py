"""Decode image files once, into a cache that later runs map."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from pretrain.data.decoding import decode_image
from pretrain.data.skipped_files import Skipped
from pretrain.runs.progress import Progress

# Increase this number when decoding changes, so that old caches are not used.
CACHE_VERSION = 1


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
    """

    images: Tensor
    paths: list[Path]
    skipped: list[Skipped]


def decode_files(paths: Sequence[Path], size: int, channels: int, cache: Path | None) -> Decoded:
    """Decode files, or map the cache of an earlier call.

    Parameters
    ----------
    paths : sequence of Path
        Image files. A file that cannot be read is skipped and listed.
    size, channels : int
        Side in pixels and number of channels, as in `decode_image`.
    cache : Path, optional
        Folder of the caches. A cache is used again as long as each file has the same path, size and modification
        time. None decodes into memory.
    """
    folder = cache / _fingerprint(paths, size, channels) if cache else None
    if folder and (folder / "index.json").exists():
        return _open_cache(folder, paths)
    if folder is None:
        rows = np.empty((len(paths), size, size, channels), dtype=np.uint8)
        kept, skipped = _decode_into(rows, paths, size, channels)
        return Decoded(_as_tensor(rows[: len(kept)]), [paths[k] for k in kept], skipped)
    folder.mkdir(parents=True, exist_ok=True)
    # Two runs may decode at once; the last to finish replaces the other's files.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        target = Path(scratch, "images.npy")
        rows = open_memmap(target, mode="w+", dtype=np.uint8, shape=(max(len(paths), 1), size, size, channels))
        kept, skipped = _decode_into(rows, paths, size, channels)
        rows.flush()
        index = Path(scratch, "index.json")
        index.write_text(json.dumps({"kept": kept, "skipped": [asdict(s) for s in skipped]}))
        target.replace(folder / "images.npy")
        index.replace(folder / "index.json")
    return _open_cache(folder, paths)


def _decode_into(rows: np.ndarray, paths: Sequence[Path], size: int, channels: int) -> tuple[list[int], list[Skipped]]:
    """Fill the first rows with the readable images; return their positions in `paths`, and the skipped files."""

    def attempt(path: Path) -> np.ndarray | Skipped:
        try:
            return decode_image(path, size, channels)
        # Pillow raises many kinds of errors for damaged files; each means that the file is skipped.
        except Exception as error:
            return Skipped(str(path), f"{type(error).__name__}: {error}".splitlines()[0])

    kept: list[int] = []
    skipped: list[Skipped] = []
    with Progress("decoding images", len(paths), unit="images") as progress, ThreadPoolExecutor() as pool:
        for position, result in enumerate(pool.map(attempt, paths)):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                rows[len(kept)] = result
                kept.append(position)
            progress.update(position + 1)
    return kept, skipped


def _fingerprint(paths: Sequence[Path], size: int, channels: int) -> str:
    digest = hashlib.blake2b(f"{CACHE_VERSION} {size} {channels}".encode(), digest_size=16)
    for path in paths:
        digest.update(os.fsencode(path.resolve()))
        # A broken link does not exist.
        if path.exists():
            status = path.stat()
            digest.update(f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _open_cache(folder: Path, paths: Sequence[Path]) -> Decoded:
    index = json.loads((folder / "index.json").read_text())
    kept, skipped = index["kept"], [Skipped(**s) for s in index["skipped"]]
    rows = np.load(folder / "images.npy", mmap_mode="c")[: len(kept)]
    return Decoded(_as_tensor(rows), [paths[k] for k in kept], skipped)


def _as_tensor(rows: np.ndarray) -> Tensor:
    """Return a view of shape (N, C, H, W) of images stored with channels last."""
    return torch.from_numpy(rows).permute(0, 3, 1, 2)
