"""Labelled images that come as one set: which are for training, validation and testing."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pretrain.data.data_source import DataSource
from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.leakage_check import Named
from pretrain.data.skipped_files import Skipped
from pretrain.data.splits import split_test, split_validation
from pretrain.errors import UserError
from pretrain.runs.progress import complain


def gather_one_set(
    source: DataSource,
    classes: Sequence[str],
    images: Named,
    labels: Tensor,
    splits: Sequence[str],
    *,
    test: int | float | None,
    base: str | os.PathLike[str] | None = None,
    pools: Named | None = None,
    skipped: list[Skipped] | None = None,
    recorded: bool = True,
) -> Dataset:
    """Part labelled images, and gather the unlabelled pool from those for training.

    Parameters
    ----------
    source : DataSource
        Settings of the data set.
    classes : sequence of str
        Names of the classes, in the order of the labels.
    images : Named
        All labelled images.
    labels : Tensor, (N,), int64
        Their classes.
    splits : sequence of str, (N,)
        "train", "validation" or "test" for each. Validation images are drawn where none are given.
    test : int or float, optional
        Number or share of the images for training that are test images, where `splits` has none.
    base : path, optional
        Folder that the names of the images are told relative to.
    pools, skipped
        More unlabelled images, and files that could not be read, as in `gather`.
    recorded : bool
        Whether runs keep a list of the splits.

    Raises
    ------
    UserError
        When there are test images both given and to be drawn, or neither, or no training image of a class.
    """
    parting = _parted(source, classes, images, labels, np.array(splits), test)
    of_train, of_test = (torch.from_numpy(np.flatnonzero(mask)) for mask in (parting != "test", parting == "test"))
    held_out = torch.from_numpy(np.flatnonzero(parting[of_train.numpy()] == "validation"))
    judged, test_labels = images.subset(of_test), labels[of_test]
    data = gather(
        source,
        classes,
        images.subset(of_train),
        labels[of_train],
        lambda: Labelled(judged.images, test_labels),
        lambda: judged,
        pools,
        skipped,
        held_out=held_out,
        test_key=repr(test_labels.tolist()),
    )
    if not recorded:
        return data
    names = [os.path.relpath(name, base) if base is not None else name for name in images.names]
    of_class = [classes[k] for k in labels.tolist()]
    return replace(data, parting=[*zip(names, of_class, parting.tolist(), strict=True)])


def _parted(
    source: DataSource,
    classes: Sequence[str],
    images: Named,
    labels: Tensor,
    splits: np.ndarray,
    test: int | float | None,
) -> np.ndarray:
    """Return the split of each image: the one that is given, or where it is drawn to."""
    if test is None and "test" not in splits:
        raise UserError("there are no test images: set a number or share of the others aside with data.test=0.2.")
    if test is not None and "test" in splits:
        raise UserError(f"data.test={test}: there are test images already, so leave it out.")
    parting = splits.astype("<U10")
    given = torch.from_numpy(np.flatnonzero(parting == "train"))
    _require_every_class(labels[given], classes)
    if test is not None:
        keys = images.images.subset(given).prints["key"].tolist()
        parting[given[split_test(labels[given], test, keys, classes)[1]].numpy()] = "test"
    if "validation" not in parting:
        left = torch.from_numpy(np.flatnonzero(parting == "train"))
        parting[left[split_validation(labels[left], source.validation, classes)[1]].numpy()] = "validation"
    elif source.validation:
        there = f"{(parting == 'validation').sum():,} validation images come with the data"
        complain(f"note: {there}; data.validation={source.validation} draws none")
    return parting


def _require_every_class(labels: Tensor, classes: Sequence[str]) -> None:
    """Raise a `UserError` unless each class has a training image."""
    if missing := [name for k, name in enumerate(classes) if not (labels == k).any()]:
        raise UserError(f"there is no readable training image of the class {', '.join(missing)}: add some.")
