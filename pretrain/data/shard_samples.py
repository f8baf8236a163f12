"""Labelled images in WebDataset's tar shards."""

import os
from collections.abc import Mapping, Sequence

import torch

from pretrain.data.class_folders import class_order
from pretrain.data.dataset import Dataset
from pretrain.data.dataset_settings import WebDatasetData
from pretrain.data.leakage_check import Named
from pretrain.data.one_set import gather_one_set
from pretrain.data.skipped_files import Skipped
from pretrain.data.tar_shards import Samples, are_shards, expanded, read_shards
from pretrain.data.unlabelled_pools import decode_readable, load_pools
from pretrain.errors import UserError


def read_webdataset(source: WebDatasetData) -> Dataset:
    """Return the images of shards that have a label.

    Raises
    ------
    UserError
        When a shard is missing or damaged, or there is no readable image of a class.
    """
    settings = {"train": "shards", "validation": "validation_shards", "test": "test_shards"}
    given = {split: getattr(source, name) for split, name in settings.items() if getattr(source, name)}
    _refuse_overlap(given, source.unlabelled)
    samples = {
        split: _labelled(read_shards(names, f"data.{settings[split]}", source.label), settings[split], source.label)
        for split, names in given.items()
    }
    decoded = {
        split: decode_readable(settings[split], each.images, each.skipped, source.size, source.channels, source.cache)
        for split, each in samples.items()
    }
    labels = {split: dict(zip(each.images.names, each.labels, strict=True)) for split, each in samples.items()}
    classes = class_order({str(label) for label in labels["train"].values()})
    numbers = {name: k for k, name in enumerate(classes)}
    if unknown := sorted({str(label) for each in labels.values() for label in each.values()} - {*classes}):
        raise UserError(f"data.shards has no image of the class {', '.join(unknown)}, which another split has.")
    pools, skipped = load_pools(source)
    return gather_one_set(
        source,
        classes,
        Named.joined([each.named for each in decoded.values()]),
        torch.tensor([numbers[str(labels[split][path])] for split, each in decoded.items() for path in each.paths]),
        [split for split, each in decoded.items() for _ in each.paths],
        test=source.test,
        pools=pools,
        skipped=[*(skip for each in decoded.values() for skip in each.skipped), *skipped],
    )


def _labelled(samples: Samples, setting: str, ending: str) -> Samples:
    """Leave out the samples without a label."""
    kept = [k for k, label in enumerate(samples.labels) if label is not None]
    if not kept:
        raise UserError(f"data.{setting}: no sample has both an image and a label, as in 7.jpg and 7.{ending}.")
    names = samples.images.names
    without = [Skipped(names[k], f"no label (.{ending})") for k, label in enumerate(samples.labels) if label is None]
    return Samples(samples.images.subset(kept), [samples.labels[k] for k in kept], [*samples.skipped, *without])


def _refuse_overlap(given: Mapping[str, Sequence[str]], pools: Sequence[str]) -> None:
    """Reject shards that are given twice: stages would see test images, or training images twice."""
    known: set[str] = set()
    for names in (*given.values(), [pool for pool in pools if are_shards(pool)]):
        shards = {os.path.realpath(shard) for shard in expanded(names, "data.shards")}
        if again := sorted(known & shards):
            raise UserError(f"{again[0]} is given twice: give each shard for one split, or for data.unlabelled.")
        known |= shards
