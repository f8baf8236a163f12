"""The user's own images, in folders."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.decoding import list_files
from pretrain.data.image_cache import Decoded, decode_files
from pretrain.data.leakage_check import Named
from pretrain.data.skipped_files import Skipped
from pretrain.errors import UserError, require_between

Folder = str | Path
CACHE = Path("~/.cache/pretrain")


def load_folder(
    root: Folder,
    image_size: int = 32,
    channels: int = 3,
    validation: int | float = 0.1,
    unlabelled: Sequence[Folder] = (),
    cache: Folder | None = CACHE,
    shared: str = "leave_out",
) -> Dataset:
    """Load the user's own images: ``root/train/<class>/*`` and ``root/test/<class>/*``, of any depth.

    Parameters
    ----------
    root : str or Path
        Folder with `train` and `test` in it. The classes are the folders in `train`, in alphabetical order.
    image_size : int
        Side in pixels to which every image is brought: the shorter side is scaled, the center kept.
    channels : {1, 3}
        Gray or RGB.
    validation : int or float
        Training images set aside for validation: a number, or a share below 1.
    unlabelled : sequence of str or Path
        More folders of images, of any depth, without classes, for the unlabelled pool.
    cache : str or Path, optional
        Where decoded images are kept for later runs; None keeps them in memory.
    shared : {"leave_out", "keep"}
        What becomes of unlabelled images that are validation or test images as well, or nearly.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image, or the test classes are not those of training.
    """
    root = Path(root).expanduser()
    classes = class_folders(root / "train")
    _refuse_overlap(root, unlabelled)
    train, names, skipped = _load_classes(root / "train", classes, image_size, channels, cache)
    pools = load_unlabelled(unlabelled, image_size, channels, cache) if unlabelled else None
    if unknown := sorted(set(class_folders(root / "test")) - set(classes)):
        raise UserError(f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(unknown)}.")

    def open_test() -> Labelled:
        test, _, damaged = _load_classes(root / "test", classes, image_size, channels, cache)
        skipped.extend(skip for skip in damaged if skip not in skipped)
        return test

    def test_images() -> Named:
        decoded = _load_files(root / "test", image_size, channels, cache)
        return Named(decoded.images, [*map(str, decoded.paths)])

    return gather(classes, train, names, open_test, test_images, validation, pools, shared, skipped)


def _refuse_overlap(root: Path, pools: Sequence[Folder]) -> None:
    """Refuse pools that hold the labelled images: stages would see test images, and training images twice."""
    for pool in [pools] if isinstance(pools, str | Path) else pools:
        for split in (root / "train", root / "test"):
            one, other = Path(pool).expanduser().resolve(), split.resolve()
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise UserError(f"data.unlabelled={pool} shares images with {split}: give folders beside it.")


def load_unlabelled(
    folders: Sequence[Folder], image_size: int = 32, channels: int = 3, cache: Folder | None = CACHE
) -> Decoded:
    """Load every image of any number of folders, of any depth; the parameters are those of `load_folder`.

    Raises
    ------
    UserError
        When a folder is missing, or holds no image that can be read.
    """
    if isinstance(folders, str | Path):
        folders = [folders]
    decoded = [_load_files(Path(folder).expanduser(), image_size, channels, cache) for folder in folders]
    return Decoded(
        decoded[0].images if len(decoded) == 1 else torch.cat([d.images for d in decoded]),
        [path for d in decoded for path in d.paths],
        [skip for d in decoded for skip in d.skipped],
    )


def _load_files(folder: Path, image_size: int, channels: int, cache: Folder | None) -> Decoded:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    if channels not in (1, 3):
        raise UserError(f"data.channels={channels}: give 1 (gray) or 3 (RGB).")
    require_between("data.image_size", image_size, 1)
    decoded = decode_files(list_files(folder), image_size, channels, Path(cache).expanduser() if cache else None)
    if not decoded.paths:
        what = f"; the first of {len(decoded.skipped)}: {decoded.skipped[0].reason}" if decoded.skipped else ""
        raise UserError(f"{folder} holds no image that can be read{what}.")
    return decoded


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in `folder`, in alphabetical order."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: labelled images are expected in {folder}/<class>/.")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no class folders: labelled images are expected in {folder}/<class>/.")
    return classes


def _load_classes(
    folder: Path, classes: Sequence[str], image_size: int, channels: int, cache: Folder | None
) -> tuple[Labelled, list[str], list[Skipped]]:
    """Load `folder`, taking each image's class from the first folder of its path; return the paths as well."""
    decoded = _load_files(folder, image_size, channels, cache)
    names = [path.relative_to(folder).parts[0] for path in decoded.paths]
    stray = [k for k, name in enumerate(names) if name not in classes]
    skipped = [*decoded.skipped, *(Skipped(str(decoded.paths[k]), "not in a class folder") for k in stray)]
    labels = torch.tensor([classes.index(name) for name in names if name in classes])
    if folder.name == "train" and (empty := sorted(set(classes) - set(names))):
        raise UserError(f"{folder} has no readable image of the class {', '.join(empty)}.")
    if len(stray) == len(names):
        raise UserError(f"{folder} has no readable image in its class folders ({folder}/<class>/).")
    kept = [k for k, name in enumerate(names) if name in classes]
    images = decoded.images[kept] if stray else decoded.images
    return Labelled(images, labels), [str(decoded.paths[k]) for k in kept], skipped
