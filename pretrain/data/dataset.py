"""What a run may use: labelled images, the unlabelled pool, and a test split that is opened at its end."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pretrain.data.image_cache import Decoded
from pretrain.data.leakage_check import Leakage, Named, check_pool
from pretrain.data.skipped_files import Skipped, write_skipped
from pretrain.data.sources import DataSource
from pretrain.data.splits import split_validation
from pretrain.errors import UserError
from pretrain.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Labelled:
    """Images, (N, C, H, W), uint8, and the class of each, (N,), int64."""

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.labels)

    def subset(self, positions: Tensor) -> "Labelled":
        """Return those at `positions`."""
        return Labelled(self.images[positions], self.labels[positions])


@dataclass(frozen=True)
class Dataset:
    """What a run may use, and when.

    Attributes
    ----------
    classes : tuple of str
        Names, in the order of the labels.
    train, validation : Labelled
        Disjoint. Label budgets are drawn from `train`; every choice is made on `validation`.
    unlabelled : Tensor, (N, C, H, W), uint8
        What stages learn from: the training images, and any pools added to them, without those that are among the
        validation or the test images (unless the user keeps them).
    open_test : callable
        Returns the test split. Called once, by a finished run.
    skipped : list of Skipped
        Files that could not be read; those of the test split are added when it is opened.
    leakage : Leakage, optional
        What the unlabelled pool shares with the validation and the test images; None where nobody looked.
    test_digest : str
        Hash of the test images and of their names, which in folders tell the class.
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
        """List what was skipped in skipped.csv, and what the pool shares with other splits in leakage.json."""
        if self.skipped and folder.writes:
            write_skipped(folder.path / "skipped.csv", self.skipped)
        if self.leakage and folder.writes:
            self.leakage.write(folder.path / "leakage.json")

    @property
    def digests(self) -> dict[str, str]:
        """What binds a run to its data."""
        return {"data_digest": self.digest, "labelled_digest": self.labelled_digest}

    @cached_property
    def digest(self) -> str:
        """Hash of the images and labels that a run may learn from or choose by: the same for the same content."""
        return _hash(self._labelled, self.unlabelled)

    @property
    def labelled_digest(self) -> str:
        """Hash of all but the unlabelled pool: runs with the same one see the same labels, and the same test images."""
        return self._labelled + self.test_digest

    @cached_property
    def _labelled(self) -> str:
        tensors = (self.train.images, self.train.labels, self.validation.images, self.validation.labels)
        return _hash(repr(self.classes), *tensors)


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
    """Split off the validation images, and gather the unlabelled pool from the rest.

    Parameters
    ----------
    source : DataSource
        How many validation images there are to be, and what becomes of duplicates.
    classes : sequence of str
        Names, in the order of the labels.
    train : Labelled
        Training images, those for validation among them.
    names : sequence of str
        What to call each of them.
    open_test : callable
        Returns the test split. Not called here.
    test_images : callable
        Returns the images of the test split alone, without their labels: the pool is checked against them.
    pools : Decoded, optional
        More unlabelled images.
    skipped : list of Skipped, optional
        Training files that could not be read. It stays the data set's own list, to which others may be added.

    Raises
    ------
    UserError
        When there are too few classes or images, or no image is left in the pool.
    """
    if len(classes) < 2:
        raise UserError(f"there is one class only ({classes[0]}): give two or more to tell apart.")
    training, held_out = split_validation(train.labels, source.validation)
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
            f"each of the {len(free):,} unlabelled images is among the validation or the test images: "
            "add others with data.unlabelled, or keep them with data.duplicates=keep."
        )
    unlabelled = pool.images if keep or free.all() else pool.images[free]
    skipped = [] if skipped is None else skipped
    skipped += pools.skipped if pools else []
    places = ["/".join(Path(name).parts[-2:]) for name in test.names]  # wherever the folder of the data may be
    digest = _hash(repr(places), test.images)
    return Dataset(tuple(classes), rest, judged, unlabelled, open_test, skipped, leakage, digest)
