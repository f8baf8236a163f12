"""The user's own images, read from folders."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pretrain.data.class_folders import class_folders, unlistable
from pretrain.data.dataset import Dataset, Labelled, gather, unlabelled_alone
from pretrain.data.dataset_settings import DEFAULT_CACHE, DataSource, FolderData, check_image_format, named_folders
from pretrain.data.decoding import Size
from pretrain.data.file_listing import list_files
from pretrain.data.image_cache import Decoded, decode_files
from pretrain.data.lazy_images import LazyImages
from pretrain.data.leakage_check import Named
from pretrain.data.skipped_files import Skipped
from pretrain.errors import UserError
from pretrain.runs.progress import complain

Folder = str | Path


def read_folder(source: FolderData) -> Dataset:
    """Return the decoded images of class folders, or unlabelled images alone where there is no root.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image, or when a test class has no training folder.
    """
    if source.root is None:
        pools, skipped = load_pools(source)
        assert pools is not None  # The settings require one of the two.
        return unlabelled_alone(pools, skipped)
    root, form = Path(os.path.expanduser(source.root)), (source.size, source.channels, source.cache)
    classes = class_folders(root / "train")
    _refuse_overlap(root, source.unlabelled)
    train, labels, skipped = _load_classes(root / "train", classes, *form)
    pools, more_skipped = load_pools(source)
    skipped += more_skipped
    if unknown := sorted(set(class_folders(root / "test")) - set(classes)):
        raise UserError(f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(unknown)}.")

    def open_test() -> Labelled:
        test, test_labels, damaged = _load_classes(root / "test", classes, *form)
        skipped.extend(skip for skip in damaged if skip not in skipped)
        return Labelled(test.images, test_labels)

    def test_images() -> Named:
        decoded = _load_split(root / "test", classes, *form)
        return Named(decoded.images, decoded.paths)

    return gather(source, classes, train, labels, open_test, test_images, pools, skipped)


def _refuse_overlap(root: Path, pools: Sequence[Folder]) -> None:
    """Reject pools that contain labelled images: stages would see test images, and training images twice."""
    for pool in pools:
        for split in (root / "train", root / "test"):
            one, other = (Path(os.path.realpath(os.path.expanduser(each))) for each in (pool, split))
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise UserError(f"data.unlabelled={pool} shares images with {split}: give folders beside it.")


def load_pools(source: DataSource) -> tuple[Named | None, list[Skipped]]:
    """Return the images of the folders of unlabelled images, if there are any, and the files that are none.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image.
    """
    if not source.unlabelled:
        return None, []
    channels, height, width = source.shape
    decoded = load_unlabelled(source.unlabelled, (height, width), channels, source.cache)
    return Named(decoded.images, decoded.paths), decoded.skipped


def load_unlabelled(
    folders: Sequence[Folder], image_size: Size = 32, channels: int = 3, cache: Folder | None = DEFAULT_CACHE
) -> Decoded:
    """Load every image at any depth of one or more folders; the parameters are those of `FolderData`.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image.
    """
    decoded = [_load_pool(Path(folder), image_size, channels, cache) for folder in named_folders(folders)]
    return Decoded(
        LazyImages.joined([d.images for d in decoded]),
        [path for d in decoded for path in d.paths],
        [skip for d in decoded for skip in d.skipped],
    )


def _load_pool(folder: Path, image_size: Size, channels: int, cache: Folder | None) -> Decoded:
    """Decode unlabelled images; those in folders that cannot be listed are left out, and the user is told."""
    files, odd = _files_in(folder)
    for skip in odd:
        if skip.passing:
            complain(f"{skip.path} {skip.reason}: its images are left out")
    return _decode(folder, files, odd, image_size, channels, cache)


def _load_split(folder: Path, classes: Sequence[str], image_size: Size, channels: int, cache: Folder | None) -> Decoded:
    """Decode labelled images, and refuse to go on where a class would silently be missing."""
    files, odd = _files_in(folder)
    if unlisted := [skip for skip in odd if skip.passing]:
        raise unlistable(unlisted[0].path, unlisted[0].reason)
    decoded = _decode(folder, files, odd, image_size, channels, cache)
    lost = {*classes} - {_class_of(path, folder) for path in decoded.paths}
    skipped = [skip for skip in decoded.skipped if _class_of(skip.path, folder) in lost]
    # A test split may lack the folder of a class.
    missing = lost if folder.name == "train" else {_class_of(skip.path, folder) for skip in skipped}
    if missing:
        raise UserError(f"{folder} has no readable image of the class {', '.join(sorted(missing))}{_reason(skipped)}.")
    return decoded


def _class_of(path: str, folder: Path) -> str:
    above = os.path.join(folder, "").removeprefix(f".{os.sep}")
    return path[len(above) :].split(os.sep, 1)[0]


def _files_in(folder: Path) -> tuple[list[str], list[Skipped]]:
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder.")
    return list_files(folder)


def _decode(
    folder: Path, files: Sequence[str], odd: Sequence[Skipped], image_size: Size, channels: int, cache: Folder | None
) -> Decoded:
    """Decode files, tell the user what may be wrong with them, and add what is `odd` to the skipped files."""
    check_image_format(image_size, channels)
    decoded = decode_files(files, image_size, channels, Path(os.path.expanduser(cache)) if cache else None)
    skipped = [*odd, *decoded.skipped]
    if not decoded.paths:
        raise UserError(f"{folder} has no readable image{_reason(skipped)}.")
    for line in decoded.remarks:
        complain(line)
    return replace(decoded, skipped=skipped)


def _reason(skipped: Sequence[Skipped]) -> str:
    return f"; the first of {len(skipped)}: {skipped[0].reason}" if skipped else ""


def _load_classes(
    folder: Path, classes: Sequence[str], image_size: Size, channels: int, cache: Folder | None
) -> tuple[Named, Tensor, list[Skipped]]:
    """Load images whose class is the first folder of their path in `folder`, and their classes."""
    decoded = _load_split(folder, classes, image_size, channels, cache)
    numbers = {name: k for k, name in enumerate(classes)}
    labels = torch.tensor([numbers.get(_class_of(path, folder), -1) for path in decoded.paths])
    stray = (labels < 0).nonzero()[:, 0].tolist()
    if len(stray) == len(labels):
        raise UserError(f"{folder} has no readable image in its class folders ({folder}/<class>/).")
    skipped = [*decoded.skipped, *(Skipped(decoded.paths[k], "not in a class folder") for k in stray)]
    kept = (labels >= 0).nonzero()[:, 0]
    return Named(decoded.images, decoded.paths).subset(kept), labels[kept], skipped
