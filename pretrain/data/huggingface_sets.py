"""Labelled images in a data set of the library datasets (Hugging Face) on disk."""

from typing import Any

import torch

from pretrain.data.dataset import Dataset
from pretrain.data.dataset_settings import HuggingFaceData
from pretrain.data.image_cache import Decoded
from pretrain.data.leakage_check import Named
from pretrain.data.one_set import gather_one_set
from pretrain.data.saved_datasets import (
    SPLITS,
    UNLABELLED,
    SavedImages,
    class_names_in,
    labelled_splits,
    open_saved,
    saved_images,
    saved_labels,
)
from pretrain.data.skipped_files import Skipped
from pretrain.data.unlabelled_pools import decode_readable, load_pools
from pretrain.runs.progress import complain


def read_huggingface(source: HuggingFaceData) -> Dataset:
    """Return the images of a saved data set, whose splits are told by their names.

    Raises
    ------
    UserError
        When the library is missing, the data set cannot be read, or there is no readable image of a class.
    """
    splits = open_saved(source.path, "data.path")
    for name in splits:
        if name not in SPLITS and name not in UNLABELLED:
            complain(f"data.path={source.path}: the split {name} is not used")
    given = labelled_splits(splits)
    classes = class_names_in([*given.values()], source.label)
    numbers: dict[str | None, int] = {name: k for k, name in enumerate(classes)}
    images, labels, of_split, skipped = [], [], [], []
    for name, split in given.items():
        encoded, named, odd = _labelled(split, name, source)
        decoded = decode_readable(
            f"data.path={source.path}, split {name}", encoded, odd, source.size, source.channels, source.cache
        )
        images.append(decoded.named)
        labels += [numbers[named[path]] for path in decoded.paths]
        of_split += [SPLITS[name]] * len(decoded.paths)
        skipped += decoded.skipped
    pools, more_skipped = load_pools(source, _unlabelled(source, splits))
    return gather_one_set(
        source,
        classes,
        Named.joined(images),
        torch.tensor(labels),
        of_split,
        test=source.test,
        pools=pools,
        skipped=[*skipped, *more_skipped],
    )


def _labelled(split: Any, name: str, source: HuggingFaceData) -> tuple[SavedImages, dict[str, str], list[Skipped]]:
    """Return the images with a label, the label of each by its name, and the others."""
    images, labels = saved_images(split, name, source.image), saved_labels(split, source.label)
    named = {image: label for image, label in zip(images.names, labels, strict=True) if label is not None}
    without = [Skipped(image, "no label") for image in images.names if image not in named]
    kept = [k for k, label in enumerate(labels) if label is not None]
    return images.subset(kept) if without else images, named, without


def _unlabelled(source: HuggingFaceData, splits: dict[str, Any]) -> list[Decoded]:
    """Return the images of each unlabelled split, in the order of the data set."""
    return [
        decode_readable(
            f"data.path={source.path}, split {name}",
            saved_images(split, name, source.image),
            [],
            source.size,
            source.channels,
            source.cache,
        )
        for name, split in splits.items()
        if name in UNLABELLED
    ]
