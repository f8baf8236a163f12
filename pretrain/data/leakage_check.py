"""What the unlabelled pool shares with the images that results are judged by.

Test images are looked at here, and never their labels: no function of this module is given any.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.data.near_duplicates import Match, find_shared, fingerprints
from pretrain.runs.atomic_files import write_text

EXAMPLES = 20  # pairs in a report


@dataclass(frozen=True)
class Named:
    """Images, (N, C, H, W), uint8, and what to call each: its path where it has one."""

    images: Tensor
    names: Sequence[str]


@dataclass(frozen=True)
class Count:
    """How many images of one set are in another, as the same bytes or nearly."""

    exact: int
    near: int


@dataclass(frozen=True)
class Pair:
    """An image of the pool, and one of the split ("validation" or "test") that it is a duplicate of."""

    pool: str
    split: str
    image: str
    exact: bool
    correlation: float


@dataclass(frozen=True)
class Leakage:
    """What the unlabelled pool shares with the validation and the test images.

    Attributes
    ----------
    kept : bool
        Whether what is shared stays in the pool.
    pool : int
        Images in the pool before anything is left out: the training images, and the pools added to them.
    shared : int
        How many of these are among the validation images, the test images or both.
    validation, test : Count
        The same, for the validation images and for the test images.
    train_validation, train_test : Count
        Of these, the labelled training images. They keep their labels in any case: all arms see them alike.
    examples : tuple of Pair
        The first few, those with test images before those with validation images.
    """

    kept: bool
    pool: int
    shared: int
    validation: Count
    test: Count
    train_validation: Count
    train_test: Count
    examples: tuple[Pair, ...]

    def __str__(self) -> str:
        """Say in one line what is shared, and what becomes of it."""
        return (
            f"{self.shared:,} of the {self.pool:,} unlabelled images are among those that results are judged by "
            f"(test: {self.test.exact:,} equal, {self.test.near:,} nearly; "
            f"validation: {self.validation.exact:,} equal, {self.validation.near:,} nearly): "
            + ("kept, since data.duplicates=keep" if self.kept else "left out")
            + "; see leakage.json of the run"
        )

    def write(self, file: Path) -> None:
        """Write all of it as JSON."""
        write_text(file, json.dumps(asdict(self), indent=2) + "\n")


def check_pool(
    pool: Named, labelled: int, validation: Named, test: Named, *, keep: bool = False
) -> tuple[Tensor, Leakage]:
    """Look for images of the pool among those that results are judged by.

    Parameters
    ----------
    pool : Named
        The labelled training images first, then the others.
    labelled : int
        How many images of the pool are labelled training images.
    validation, test : Named
        What results are judged by.
    keep : bool
        Whether what is shared stays in the pool; only said in the report.

    Returns
    -------
    Tensor, (N,), bool
        True for each image of the pool that is shared with neither.
    Leakage
        What was found.
    """
    prints = fingerprints(pool.images)
    free = torch.ones(len(pool.images), dtype=torch.bool)
    counts, examples = {}, []
    for split, judged in (("test", test), ("validation", validation)):
        matches = find_shared(prints, fingerprints(judged.images))
        free[[match.image for match in matches]] = False
        counts[split] = _count(matches)
        counts[f"train_{split}"] = _count([match for match in matches if match.image < labelled])
        examples += [
            Pair(pool.names[m.image], split, judged.names[m.other], m.exact, round(m.correlation, 3))
            for m in matches[:EXAMPLES]
        ]
    shared = int((~free).sum())
    return free, Leakage(keep, len(free), shared, **counts, examples=tuple(examples[:EXAMPLES]))


def _count(matches: Sequence[Match]) -> Count:
    exact = sum(match.exact for match in matches)
    return Count(exact, len(matches) - exact)
