"""The user's own images, read from folders."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.dataset_settings import DEFAULT_CACHE, FolderData, check_image_format, class_folders
from pretrain.data.decoding import list_files
from pretrain.data.image_cache import Decoded, decode_files
from pretrain.data.leakage_check import Named
from pretrain.data.skipped_files import Skipped
from pretrain.errors import UserError

Folder = str | Path


def read_folder(source: FolderData) -> Dataset:
    """Return the decoded images of class folders.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image, or when a test class has no training folder.
    """
    root, form = Path(source.root).expanduser(), (source.image_size, source.channels, source.cache)
    classes = class_folders(root / "train")
    _refuse_overlap(root, source.unlabelled)
    train, names, skipped = _load_classes(root / "train", classes, *form)
    pools = load_unlabelled(source.unlabelled, *form) if source.unlabelled else None
    if unknown := sorted(set(class_folders(root / "test")) - set(classes)):
        raise UserError(f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(unknown)}.")

    def open_test() -> Labelled:
        test, _, damaged = _load_classes(root / "test", classes, *form)
        skipped.extend(skip for skip in damaged if skip not in skipped)
        return test

    def test_images() -> Named:
        decoded = _load_files(root / "test", *form)
        return Named(decoded.images, [*map(str, decoded.paths)])

    return gather(source, classes, train, names, open_test, test_images, pools, skipped)


def _refuse_overlap(root: Path, pools: Sequence[Folder]) -> None:
    """Reject pools that contain labelled images: stages would see test images, and training images twice."""
    for pool in pools:
        for split in (root / "train", root / "test"):
            one, other = Path(pool).expanduser().resolve(), split.resolve()
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise UserError(f"data.unlabelled={pool} shares images with {split}: give folders beside it.")


def load_unlabelled(
    folders: Sequence[Folder], image_size: int = 32, channels: int = 3, cache: Folder | None = DEFAULT_CACHE
) -> Decoded:
    """Load every image at any depth of one or more folders; the parameters are those of `FolderData`.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image.
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
    check_image_format(image_size, channels)
    decoded = decode_files(list_files(folder), image_size, channels, Path(cache).expanduser() if cache else None)
    if not decoded.paths:
        what = f"; the first of {len(decoded.skipped)}: {decoded.skipped[0].reason}" if decoded.skipped else ""
        raise UserError(f"{folder} has no readable image{what}.")
    return decoded


def _load_classes(
    folder: Path, classes: Sequence[str], image_size: int, channels: int, cache: Folder | None
) -> tuple[Labelled, list[str], list[Skipped]]:
    """Load images whose class is the first folder of their path in `folder`; return the paths as well."""
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
