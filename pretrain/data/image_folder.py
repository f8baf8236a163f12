"""The user's own images, read from folders."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pretrain.data.class_folders import class_folders, unlistable
from pretrain.data.dataset import Dataset, Labelled, gather, unlabelled_alone
from pretrain.data.dataset_settings import FolderData
from pretrain.data.decoding import Size
from pretrain.data.encoded_images import image_files
from pretrain.data.image_cache import Decoded
from pretrain.data.image_table import read_table
from pretrain.data.leakage_check import Named
from pretrain.data.one_set import gather_one_set
from pretrain.data.skipped_files import Skipped
from pretrain.data.unlabelled_pools import Folder, decode_readable, files_in, first_reason, load_pools
from pretrain.errors import UserError


def read_folder(source: FolderData) -> Dataset:
    """Return the decoded images of class folders, or unlabelled images alone where there is no root.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image, or when a test class has no training folder.
    """
    if source.table is not None:
        return read_table(source)
    if source.root is None:
        pools, skipped = load_pools(source)
        assert pools is not None  # The settings require one of the two.
        return unlabelled_alone(pools, skipped)
    classes = source.class_names()
    _refuse_overlap(source.class_parents, source.unlabelled)
    return _read_one_folder(source, classes) if source.test is not None else _read_two_folders(source, classes)


def _read_one_folder(source: FolderData, classes: Sequence[str]) -> Dataset:
    """Return the images of class folders, of which some are set aside for testing."""
    (root,) = source.class_parents
    images, labels, skipped = _load_classes(root, classes, source.size, source.channels, source.cache)
    pools, more_skipped = load_pools(source)
    skipped += more_skipped
    splits = ["train"] * len(labels)
    return gather_one_set(
        source, classes, images, labels, splits, test=source.test, base=root, pools=pools, skipped=skipped
    )


def _read_two_folders(source: FolderData, classes: Sequence[str]) -> Dataset:
    """Return the images of class folders in a folder for training, and in one for testing."""
    root, form = source.class_parents[0].parent, (source.size, source.channels, source.cache)
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
        return decoded.named

    return gather(source, classes, train, labels, open_test, test_images, pools, skipped)


def _refuse_overlap(labelled: Sequence[Path], pools: Sequence[Folder]) -> None:
    """Reject pools that contain labelled images: stages would see test images, and training images twice."""
    for pool in pools:
        for split in labelled:
            one, other = (Path(os.path.realpath(os.path.expanduser(each))) for each in (pool, split))
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise UserError(f"data.unlabelled={pool} shares images with {split}: give folders beside it.")


def _load_split(folder: Path, classes: Sequence[str], image_size: Size, channels: int, cache: Folder | None) -> Decoded:
    """Decode labelled images, and refuse to go on where a class would silently be missing."""
    paths, odd = files_in(folder)
    if unlisted := [skip for skip in odd if skip.passing]:
        raise unlistable(unlisted[0].path, unlisted[0].reason)
    files, none = image_files(paths)
    decoded = decode_readable(folder, files, [*odd, *none], image_size, channels, cache)
    lost = {*classes} - {_class_of(path, folder) for path in decoded.paths}
    skipped = [skip for skip in decoded.skipped if _class_of(skip.path, folder) in lost]
    # A test split may lack the folder of a class.
    missing = lost if folder.name == "train" else {_class_of(skip.path, folder) for skip in skipped}
    if missing:
        raise UserError(
            f"{folder} has no readable image of the class {', '.join(sorted(missing))}{first_reason(skipped)}."
        )
    return decoded


def _class_of(path: str, folder: Path) -> str:
    above = os.path.join(folder, "").removeprefix(f".{os.sep}")
    return path[len(above) :].split(os.sep, 1)[0]


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
    return decoded.named.subset(kept), labels[kept], skipped
