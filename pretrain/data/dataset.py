"""The images of a run: labelled images, the unlabelled pool, and a test split that is opened at the end."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pretrain.data.dataset_settings import DataSource
from pretrain.data.image_cache import Decoded
from pretrain.data.leakage_check import Leakage, Named, check_pool
from pretrain.data.skipped_files import Skipped, write_skipped
from pretrain.data.splits import split_validation
from pretrain.errors import UserError
from pretrain.runs.run_folder import RunFolder

COLOR_BATCH = 100  # images that are looked at together


@dataclass(frozen=True)
class Labelled:
    """Images, (N, C, H, W), uint8, and the class of each, (N,), int64."""

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def subset(self, positions: Tensor) -> "Labelled":
        """Return the images at `positions`."""
        return Labelled(self.images[positions], self.labels[positions])


@dataclass(frozen=True)
class Dataset:
    """The images that a run may use.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes, in the order of the labels.
    train, validation : Labelled
        Disjoint splits. Label budgets are drawn from `train`; every choice is made on `validation`.
    unlabelled : Tensor, (N, C, H, W), uint8
        Images that stages learn from: the training images and any pools added to them, without duplicates of
        validation or test images (unless the user keeps them).
    open_test : callable
        Function that returns the test split. A finished run calls it once.
    skipped : list of Skipped
        Files that could not be read; those of the test split are added when it is opened.
    leakage : Leakage, optional
        Images that the unlabelled pool shares with validation and test; None if this was not checked.
    test_digest : str
        Hash of the test images and of their names, which contain the class for image folders.
    """

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled
    unlabelled: Tensor = field(repr=False)
    open_test: Callable[[], Labelled] = field(repr=False)
    skipped: list[Skipped] = field(default_factory=list, repr=False)
    leakage: Leakage | None = field(default=None, repr=False)
    test_digest: str = ""

    def record_in(self, folder: RunFolder) -> None:
        """Write the skipped files to skipped.csv, and the images shared between splits to leakage.json."""
        if self.skipped and folder.writes:
            write_skipped(folder.path / "skipped.csv", self.skipped)
        if self.leakage and folder.writes:
            self.leakage.write(folder.path / "leakage.json")

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
        tensors = (self.train.images, self.train.labels, self.validation.images, self.validation.labels)
        return _hash(repr(self.classes), *tensors)


def refuse_one_color(images: Tensor) -> None:
    """Raise a `UserError` if all pixels of all unlabelled images, (N, C, H, W), have the same color."""
    color = images[:1, :, :1, :1]
    if all(bool((chunk == color).all()) for chunk in images.split(COLOR_BATCH)):
        values = ", ".join(f"{value:g}" for value in color.flatten().tolist())
        count = f"each of the {len(images):,} unlabelled images is" if len(images) > 1 else "the unlabelled image is"
        raise UserError(f"{count} of the same single color ({values}): nothing can be learned from them; give others.")


def _hash(text: str, *tensors: Tensor) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    for tensor in tensors:
        for chunk in tensor.split(4096):
            digest.update(chunk.contiguous().numpy().data)
    return digest.hexdigest()


def gather(
    source: DataSource,
    classes: Sequence[str],
    train: Labelled,
    names: Sequence[str],
    open_test: Callable[[], Labelled],
    test_images: Callable[[], Named],
    pools: Decoded | None = None,
    skipped: list[Skipped] | None = None,
) -> Dataset:
    """Split off the validation images and gather the unlabelled pool from the other images.

    Parameters
    ----------
    source : DataSource
        Settings: the number of validation images, and the treatment of duplicates.
    classes : sequence of str
        Names of the classes, in the order of the labels.
    train : Labelled
        Training images, including those to be set aside for validation.
    names : sequence of str
        Names of the training images.
    open_test : callable
        Function that returns the test split. It is not called here.
    test_images : callable
        Function that returns the test images without labels. The pool is checked against them.
    pools : Decoded, optional
        More unlabelled images.
    skipped : list of Skipped, optional
        Training files that could not be read. The data set keeps this very list, so files may be added later.

    Raises
    ------
    UserError
        When there are too few classes or images, or when the pool would be empty.
    """
    if len(classes) < 2:
        raise UserError(f"there is only one class ({classes[0]}): give two or more.")
    training, held_out = split_validation(train.labels, source.validation, classes)
    rest, judged = train.subset(training), train.subset(held_out)
    pool = Named(
        torch.cat([rest.images, pools.images]) if pools else rest.images,
        [*(names[k] for k in training), *(map(str, pools.paths) if pools else ())],
    )
    keep, held_out_images = source.duplicates == "keep", Named(judged.images, [names[k] for k in held_out])
    test = test_images()
    free, leakage = check_pool(pool, len(rest), held_out_images, test, keep=keep)
    if not keep and not free.any():
        raise UserError(
            f"each of the {len(free):,} unlabelled images is also a validation or test image: "
            "add others with data.unlabelled, or keep these with data.duplicates=keep."
        )
    unlabelled = pool.images if keep or free.all() else pool.images[free]
    refuse_one_color(unlabelled)
    skipped = [] if skipped is None else skipped
    skipped += pools.skipped if pools else []
    # The names leave out where the data lies, so that it may move.
    places = ["/".join(Path(name).parts[-2:]) for name in test.names]
    digest = _hash(repr(places), test.images)
    return Dataset(tuple(classes), rest, judged, unlabelled, open_test, skipped, leakage, digest)
