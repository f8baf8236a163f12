"""Search the unlabelled pool for duplicates of validation and test images.

No function of this module is given a test label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretrain.data.lazy_images import LazyImages, as_lazy
from pretrain.data.near_duplicates import Match, find_shared
from pretrain.runs.sealed_files import write_json

EXAMPLES_IN_REPORT = 20


@dataclass(frozen=True)
class Named:
    """Images, (N, C, H, W), uint8, and the name of each: its path if it has one."""

    images: LazyImages
    names: Sequence[str]

    def __post_init__(self) -> None:
        """Take a tensor of images as well."""
        object.__setattr__(self, "images", as_lazy(self.images))

    def subset(self, positions: Tensor) -> "Named":
        """Return the images at positions, (n,)."""
        return Named(self.images.subset(positions), [self.names[k] for k in positions.tolist()])

    @staticmethod
    def joined(sets: Sequence["Named"]) -> "Named":
        """Return sets of images of one shape as one, without reading them."""
        return Named(LazyImages.joined([each.images for each in sets]), [name for each in sets for name in each.names])


@dataclass(frozen=True)
class Count:
    """Number of images of one set that have an exact or a near-duplicate in another."""

    exact: int
    near: int


@dataclass(frozen=True)
class Pair:
    """An image of the pool and its duplicate in a split, "validation" or "test"."""

    pool: str
    split: str
    image: str
    exact: bool
    correlation: float


@dataclass(frozen=True)
class Leakage:
    """The images that the unlabelled pool shares with validation and test.

    Attributes
    ----------
    kept : bool
        Whether shared images stay in the pool.
    pool : int
        Images in the pool before any is left out: the training images and the pools added to them.
    shared : int
        Images of the pool that are validation images, test images or both.
    validation, test : Count
        Images of the pool that are shared with each split.
    train_validation, train_test : Count
        Labelled training images among them. They keep their labels, since all arms see them alike.
    examples : tuple of Pair
        The first few pairs, those of test images first.
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
        """Return one line that says what is shared and whether it is kept."""
        return (
            f"{self.shared:,} of the {self.pool:,} unlabelled images are also validation or test images "
            f"(test: {self.test.exact:,} exact, {self.test.near:,} near-duplicates; "
            f"validation: {self.validation.exact:,} exact, {self.validation.near:,} near-duplicates): "
            + ("kept, since data.duplicates=keep" if self.kept else "left out")
            + "; see the run's leakage.json"
        )

    def write(self, file: Path) -> None:
        """Write the result as JSON."""
        write_json(file, asdict(self))


def check_pool(
    pool: Named, labelled: int, validation: Named, test: Named, *, keep: bool = False
) -> tuple[Tensor, Leakage]:
    """Search the pool for duplicates of validation and test images.

    Parameters
    ----------
    pool : Named
        Unlabelled pool: the labelled training images first, then the others.
    labelled : int
        Number of labelled training images in the pool.
    validation, test : Named
        Images of the two splits.
    keep : bool
        Whether shared images stay in the pool. This is only noted in the result.

    Returns
    -------
    Tensor, (N,), bool
        True for each image of the pool that neither split shares.
    Leakage
        Numbers and examples of the duplicates.
    """
    prints = pool.images.prints
    free = torch.ones(len(pool.images), dtype=torch.bool)
    counts, examples = {}, []
    for split, judged in (("test", test), ("validation", validation)):
        matches = find_shared(prints, judged.images.prints, judged.images, pool.images)
        free[[match.image for match in matches]] = False
        counts[split] = _count(matches)
        counts[f"train_{split}"] = _count([match for match in matches if match.image < labelled])
        examples += [
            Pair(pool.names[m.image], split, judged.names[m.other], m.exact, round(m.correlation, 3))
            for m in matches[:EXAMPLES_IN_REPORT]
        ]
    shared = int((~free).sum())
    return free, Leakage(keep, len(free), shared, **counts, examples=tuple(examples[:EXAMPLES_IN_REPORT]))


@dataclass(frozen=True)
class Learned:
    """The images that trained stages learned from and that are validation or test images now.

    Attributes
    ----------
    pool : int
        Images that the stages learned from.
    shared : int
        Those among them that are validation images, test images or both.
    validation, test : Count
        Those that are shared with each split.
    """

    pool: int
    shared: int
    validation: Count
    test: Count

    def __str__(self) -> str:
        """Return what is shared, as a part of a line."""
        if not self.shared:
            return f"none of its {self.pool:,} images is a validation or test image here"
        return (
            f"{self.shared:,} of its {self.pool:,} images are validation or test images here, seen without labels "
            f"(test: {self.test.exact:,} exact, about {self.test.near:,} near-duplicates; "
            f"validation: {self.validation.exact:,} exact, about {self.validation.near:,} near-duplicates)"
        )


def check_learned(prints: np.ndarray, judged: Mapping[str, Named]) -> Learned:
    """Search what stages learned from, of which the fingerprints are left, for validation and test images.

    Parameters
    ----------
    prints : ndarray of FINGERPRINT, (N,)
        Fingerprints of the images that the stages learned from.
    judged : mapping of str to Named
        The images of "validation" and "test".
    """
    matches = {split: find_shared(prints, of.images.prints, of.images) for split, of in judged.items()}
    shared = {match.image for found in matches.values() for match in found}
    return Learned(len(prints), len(shared), _count(matches["validation"]), _count(matches["test"]))


def _count(matches: Sequence[Match]) -> Count:
    exact = sum(match.exact for match in matches)
    return Count(exact, len(matches) - exact)
