"""Which images carry labels: a fixed validation split, and nested label budgets drawn anew for each seed."""

import torch
from torch import Tensor

from pretrain.errors import UserError
from pretrain.runs.seeding import generator


def stratified_order(labels: Tensor, seed: int, name: str) -> Tensor:
    """Return a random order in which every prefix is stratified: positions of images, (N,), int64.

    A class with a share p of the labels has close to a share p of each prefix, and each class comes once
    before any comes twice. Prefixes of one order are nested.

    Parameters
    ----------
    labels : Tensor, (N,), int64
        Class of each image.
    seed : int
        Names the draw, with `name`.
    """
    draw = torch.rand(len(labels), generator=generator(seed, name), dtype=torch.float64)
    key = torch.empty(len(labels), dtype=torch.float64)
    for k in labels.unique():
        members = (labels == k).nonzero()[:, 0]
        members = members[draw[members].argsort()]
        ranks = torch.arange(len(members), dtype=torch.float64)
        key[members] = torch.where(ranks == 0, 0.0, (ranks + 0.5) / len(members))
    by_draw = draw.argsort()
    return by_draw[key[by_draw].argsort(stable=True)]


def split_validation(labels: Tensor, size: int | float) -> tuple[Tensor, Tensor]:
    """Return positions of the training and of the validation images, both ascending.

    The split is fixed for a data set: it has no seed, so that every stack and every run leaves out the same.

    Parameters
    ----------
    labels : Tensor, (N,), int64
        Class of each image.
    size : int or float
        How many to set aside: a number, or a share below 1.

    Raises
    ------
    UserError
        When `size` leaves no image of some class to train on.
    """
    if not 0 <= size < len(labels) or (size >= 1 and size != int(size)):
        raise UserError(
            f"data.validation={size}: give a share below 1, or a whole number of the {len(labels)} training images."
        )
    count = round(size * len(labels)) if size < 1 else int(size)
    order = stratified_order(labels, 0, "validation")
    training, validation = order[count:].sort().values, order[:count].sort().values
    if missing := {*labels.tolist()} - {*labels[training].tolist()}:
        raise UserError(
            f"data.validation={size} leaves no image to train on of {len(missing)} classes that have few: "
            "give fewer, or add images."
        )
    return training, validation


def label_subset(labels: Tensor, budget: int | None, seed: int) -> Tensor:
    """Return the positions whose labels a run with this seed may see, ascending.

    Budgets of one seed are nested: the 100 are among the 1,000.

    Parameters
    ----------
    labels : Tensor, (N,), int64
        Class of each training image.
    budget : int or None
        How many labels; None for all.

    Raises
    ------
    UserError
        When there are fewer labels than asked for, or fewer asked for than classes.
    """
    if budget is None:
        return torch.arange(len(labels))
    classes = len(labels.unique())
    if not classes <= budget <= len(labels):
        raise UserError(
            f"labels={budget}: give a number from {classes} (one a class) to {len(labels)} (the images that validation "
            "leaves for training), or labels=all."
        )
    return stratified_order(labels, seed, "labels")[:budget].sort().values
