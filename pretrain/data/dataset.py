"""The images of a run: labelled images, the unlabelled pool, and a test split that is opened at the end."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pretrain.data.data_source import DataSource
from pretrain.data.lazy_images import LazyImages, as_lazy
from pretrain.data.leakage_check import Leakage, Named, check_pool
from pretrain.data.skipped_files import Skipped, write_skipped
from pretrain.data.splits import all_but, split_validation
from pretrain.errors import UserError
from pretrain.network.preprocessing import Images
from pretrain.runs.atomic_files import write_csv
from pretrain.runs.run_folder import RunFolder

COLOR_BATCH = 100  # images that are looked at together


@dataclass(frozen=True)
class Labelled:
    """Images, (N, C, H, W), uint8, and the class of each, (N,), int64.

    The images may be given as a tensor. They are read as they are needed: ``images[:]`` is a tensor of all.
    """

    images: LazyImages = field(repr=False)
    labels: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        """Take a tensor of images as well."""
        object.__setattr__(self, "images", as_lazy(self.images))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def subset(self, positions: Tensor) -> "Labelled":
        """Return the images at `positions`."""
        return Labelled(self.images.subset(positions), self.labels[positions])


@dataclass(frozen=True)
class Dataset:
    """The images that a run may use.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes, in the order of the labels; none where all images are unlabelled.
    train, validation : Labelled
        Disjoint splits. Label budgets are drawn from `train`; every choice is made on `validation`.
    unlabelled : LazyImages, (N, C, H, W), uint8
        Images that stages learn from: the training images and any pools added to them, without duplicates of
        validation or test images (unless the user keeps them).
    open_test : callable
        Function that returns the test split. A finished run calls it once, and so does a comparison whose runs have
        all ended, for the images that its report shows.
    skipped : list of Skipped
        Files that could not be read; those of the test split are added when it is opened.
    leakage : Leakage, optional
        Images that the unlabelled pool shares with validation and test; None if this was not checked.
    judged : callable, optional
        Function that returns the names and the images of "test" and "validation", without labels. What stages learned
        from is checked against them.
    test_digest : str
        Hash of the test images and of their names, which contain the class for image folders.
    parting : sequence of (str, str, str)
        File, class and split of each labelled image, where the images were given as one set; else empty.
    """

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled
    unlabelled: LazyImages = field(repr=False)
    open_test: Callable[[], Labelled] = field(repr=False)
    skipped: list[Skipped] = field(default_factory=list, repr=False)
    leakage: Leakage | None = field(default=None, repr=False)
    judged: Callable[[], dict[str, Named]] | None = field(default=None, repr=False)
    test_digest: str = ""
    parting: Sequence[tuple[str, str, str]] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Take a tensor of unlabelled images as well."""
        object.__setattr__(self, "unlabelled", as_lazy(self.unlabelled))

    def record_in(self, folder: RunFolder) -> None:
        """Write skipped.csv, leakage.json (images shared between splits) and split.csv, where there is anything."""
        if self.skipped and folder.writes:
            write_skipped(folder.path / "skipped.csv", self.skipped)
        if self.leakage and folder.writes:
            self.leakage.write(folder.path / "leakage.json")
        if self.parting and folder.writes:
            write_csv(folder.path / "split.csv", ("file", "class", "split"), self.parting)

    @property
    def digests(self) -> dict[str, str]:
        """The hashes that bind a run to its data."""
        return {"data_digest": self.digest, "labelled_digest": self.labelled_digest}

    @cached_property
    def digest(self) -> str:
        """Hash of the content that a run may learn from or choose by: images and labels, without the test split."""
        return _hash(self._labelled, self.unlabelled)

    @property
    def labelled_digest(self) -> str:
        """Hash of all labelled images, those of the test split included, without the unlabelled pool."""
        return self._labelled + self.test_digest

    @cached_property
    def _labelled(self) -> str:
        of_labels = [split.labels.numpy().tobytes() for split in (self.train, self.validation)]
        return _hash(repr((self.classes, *of_labels)), self.train.images, self.validation.images)


def refuse_one_color(images: Images) -> None:
    """Raise a `UserError` if all pixels of all unlabelled images, (N, C, H, W), have the same color."""
    color = images[:1][:, :, :1, :1]
    if all(bool((chunk == color).all()) for chunk in images.split(COLOR_BATCH)):
        values = ", ".join(f"{value:g}" for value in color.flatten().tolist())
        count = f"each of the {len(images):,} unlabelled images is" if len(images) > 1 else "the unlabelled image is"
        raise UserError(f"{count} of the same single color ({values}): nothing can be learned from them; give others.")


def _hash(text: str, *sets: LazyImages) -> str:
    """Return a hash of a text and of the content of images, by the hashes of each."""
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    for images in sets:
        digest.update(np.ascontiguousarray(images.prints["key"]).data)
    return digest.hexdigest()


def gather(
    source: DataSource,
    classes: Sequence[str],
    train: Named,
    labels: Tensor,
    open_test: Callable[[], Labelled],
    test_images: Callable[[], Named],
    pools: Named | None = None,
    skipped: list[Skipped] | None = None,
    *,
    held_out: Tensor | None = None,
    test_key: str = "",
) -> Dataset:
    """Split off the validation images and gather the unlabelled pool from the other images.

    Parameters
    ----------
    source : DataSource
        Settings: the number of validation images, and the treatment of duplicates.
    classes : sequence of str
        Names of the classes, in the order of the labels.
    train : Named
        Training images, including those to be set aside for validation.
    labels : Tensor, (N,), int64
        Their classes.
    open_test : callable
        Function that returns the test split. It is not called here.
    test_images : callable
        Function that returns the test images without labels. The pool is checked against them.
    pools : Named, optional
        More unlabelled images.
    skipped : list of Skipped, optional
        Files that could not be read. The data set keeps this very list, so files may be added later.
    held_out : Tensor, (n,), int64, optional
        Positions of the validation images, ascending, where they are given.
    test_key : str
        Text that the digest of the test split depends on besides, such as its labels.

    Raises
    ------
    UserError
        When there are too few classes or images, or when the pool would be empty.
    """
    if len(classes) < 2:
        raise UserError(f"there is only one class ({classes[0]}): give two or more.")
    if held_out is None:
        training, held_out = split_validation(labels, source.validation, classes)
    else:
        training = all_but(held_out, len(labels))
    rest, validation = train.subset(training), train.subset(held_out)
    pool = Named.joined([rest, pools]) if pools else rest

    def judged() -> dict[str, Named]:
        return {"test": test_images(), "validation": validation}

    keep, splits = source.duplicates == "keep", judged()
    free, leakage = check_pool(pool, len(training), splits["validation"], splits["test"], keep=keep)
    if not keep and not free.any():
        raise UserError(
            f"each of the {len(free):,} unlabelled images is also a validation or test image: "
            "add others with data.unlabelled, or keep these with data.duplicates=keep."
        )
    unlabelled = pool.images if keep or free.all() else pool.images.subset(free)
    refuse_one_color(unlabelled)
    return Dataset(
        tuple(classes),
        Labelled(rest.images, labels[training]),
        Labelled(validation.images, labels[held_out]),
        unlabelled,
        open_test,
        [] if skipped is None else skipped,
        leakage,
        judged,
        _names_and_content(splits["test"], test_key),
    )


def unlabelled_alone(pool: Named, skipped: list[Skipped]) -> Dataset:
    """Return the data set of images without labels, which stages can learn from.

    Raises
    ------
    UserError
        When they all have the same single color.
    """
    refuse_one_color(pool.images)
    nothing = Labelled(pool.images.subset(torch.arange(0)), torch.empty(0, dtype=torch.int64))
    return Dataset((), nothing, nothing, pool.images, lambda: nothing, skipped)


def _names_and_content(test: Named, key: str) -> str:
    """Return a hash of the test images. Their names leave out where the data lies, so that it may move."""
    return _hash(repr(["/".join(name.rsplit("/", 2)[-2:]) for name in test.names]) + key, test.images)
