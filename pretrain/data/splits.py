"""The fixed test and validation splits, and nested label budgets that each seed draws anew."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.errors import UserError
from pretrain.runs.seeding import generator


def stratified_order(labels: Tensor, seed: int, name: str) -> Tensor:
    """Return positions in a random order whose prefixes are all stratified, (N,), int64.

    A class with a share p of the labels has close to a share p of each prefix, and each class occurs once before any
    class occurs twice.

    Parameters
    ----------
    labels : Tensor, (N,), int64
        Class of each image.
    seed : int
        Seed of the draw called `name`.
    """
    return _stratified(labels, torch.rand(len(labels), generator=generator(seed, name), dtype=torch.float64))


def _stratified(labels: Tensor, draw: Tensor) -> Tensor:
    """Return positions, (N,), in the order of the draws within each class, whose prefixes are all stratified."""
    key = torch.empty(len(labels), dtype=torch.float64)
    for k in labels.unique():
        members = (labels == k).nonzero()[:, 0]
        members = members[draw[members].argsort()]
        ranks = torch.arange(len(members), dtype=torch.float64)
        key[members] = torch.where(ranks == 0, 0.0, (ranks + 0.5) / len(members))
    by_draw = draw.argsort()
    return by_draw[key[by_draw].argsort(stable=True)]


def split_test(
    labels: Tensor, size: int | float, keys: Sequence[bytes], classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return the positions of the other and of the test images, both ascending.

    The images of a class are ordered by their content, and the first are the test images. So the split depends on no
    name, no order and no seed, and images that are added later move few from one side to the other.

    Parameters
    ----------
    labels : Tensor, (N,), int64
        Class of each image.
    size : int or float
        Number of test images, or their share below 1. Copies of a test image are test images beyond it.
    keys : sequence of bytes, (N,)
        Hash of the content of each image.
    classes : sequence of str
        Names of the classes, in the order of the labels.

    Raises
    ------
    UserError
        When there would be no test image, or none of some class is left.
    """
    count = round(size * len(labels)) if size < 1 else int(size)
    if not 0 < count < len(labels):
        raise UserError(f"data.test={size} makes {count:,} of {len(labels):,} images test images: give another number.")
    draw = torch.tensor([int.from_bytes(key[:8], "big") for key in keys], dtype=torch.float64)
    chosen = {keys[k] for k in _stratified(labels, draw)[:count].tolist()}
    test = torch.tensor([k for k, key in enumerate(keys) if key in chosen])
    rest = all_but(test, len(labels))
    if missing := {*labels.tolist()} - {*labels[rest].tolist()}:
        first = min(missing)
        raise UserError(
            f"data.test={size} leaves no other image of the class {classes[first]}, which has "
            f"{int((labels == first).sum())}{_and_more(missing)}: give fewer test images, or add images."
        )
    return rest, test


def split_validation(labels: Tensor, size: int | float, classes: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Return the positions of the training and of the validation images, both ascending.

    A data set has one split: it does not depend on a seed, so all stacks and runs leave out the same images.

    Parameters
    ----------
    labels : Tensor, (N,), int64
        Class of each image.
    size : int or float
        Number of validation images, or their share below 1.
    classes : sequence of str, optional
        Names of the classes, in the order of the labels, for the message of an error.

    Raises
    ------
    UserError
        When `size` is out of range or leaves no training image of some class.
    """
    if not 0 <= size < len(labels) or (size >= 1 and size != int(size)):
        raise UserError(
            f"data.validation={size}: give a share below 1, or a whole number below {len(labels)} (training images)."
        )
    count = round(size * len(labels)) if size < 1 else int(size)
    order = stratified_order(labels, 0, "validation")
    training, validation = order[count:].sort().values, order[:count].sort().values
    if missing := {*labels.tolist()} - {*labels[training].tolist()}:
        first = min(missing)
        name, there = classes[first] if classes else first, int((labels == first).sum())
        raise UserError(
            f"data.validation={size} leaves no training image for the class {name}, which has {there}"
            f"{_and_more(missing)}: "
            "give fewer validation images, or add images."
        )
    return training, validation


def _and_more(missing: set[int]) -> str:
    return f" (and for {len(missing) - 1} more)" if len(missing) > 1 else ""


def all_but(positions: Tensor, count: int) -> Tensor:
    """Return the other positions of `count` images, ascending."""
    others = torch.ones(count, dtype=torch.bool)
    others[positions] = False
    return others.nonzero()[:, 0]


def label_subset(labels: Tensor, budget: int | None, seed: int) -> Tensor:
    """Return the positions whose labels a run with this seed may see, ascending.

    Budgets of one seed are nested: its 100 labels are among its 1,000.

    Parameters
    ----------
    labels : Tensor, (N,), int64
        Class of each training image.
    budget : int or None
        Number of labels; None for all.

    Raises
    ------
    UserError
        When the budget exceeds the number of labels or is below the number of classes.
    """
    if budget is None:
        return torch.arange(len(labels))
    classes = len(labels.unique())
    if not classes <= budget <= len(labels):
        raise UserError(
            f"labels={budget}: give a number from {classes} (one per class) to {len(labels)} "
            "(the training images without validation), or labels=all."
        )
    return stratified_order(labels, seed, "labels")[:budget].sort().values
