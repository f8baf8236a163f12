"""Where images come from: scikit-learn's digits, CIFAR-10, or folders of the user's own."""

import hashlib
import sys
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pretrain.data.images import Decoded, Skipped, decode_files, list_files
from pretrain.data.splits import split_validation, stratified_order
from pretrain.errors import UserError, require_between

Folder = str | Path
CACHE = Path("~/.cache/pretrain")


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
        What stages learn from: the training images, and any pools added to them.
    open_test : callable
        Returns the test split. Called once, by a finished run.
    skipped : list of Skipped
        Files that could not be read; those of the test split are added when it is opened.
    """

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled
    unlabelled: Tensor = field(repr=False)
    open_test: Callable[[], Labelled] = field(repr=False)
    skipped: list[Skipped] = field(default_factory=list, repr=False)

    @cached_property
    def digest(self) -> str:
        """Hash of the images and labels that a run may learn from or choose by: the same for the same content."""
        digest = hashlib.blake2b(repr(self.classes).encode(), digest_size=8)
        labelled = (self.train.images, self.train.labels, self.validation.images, self.validation.labels)
        for tensor in (*labelled, self.unlabelled):
            for chunk in tensor.split(4096):
                digest.update(chunk.contiguous().numpy().data)
        return digest.hexdigest()


def _dataset(
    classes: Sequence[str],
    train: Labelled,
    open_test: Callable[[], Labelled],
    validation: int | float,
    pools: Decoded | None,
    skipped: list[Skipped] | None = None,
) -> Dataset:
    """Split off the validation images, and gather the unlabelled pool from the rest."""
    if len(classes) < 2:
        raise UserError(f"there is one class only ({classes[0]}): give two or more to tell apart.")
    training, held_out = split_validation(train.labels, validation)
    rest = train.subset(training)
    unlabelled = torch.cat([rest.images, pools.images]) if pools else rest.images
    skipped = [] if skipped is None else skipped
    skipped += pools.skipped if pools else []
    return Dataset(tuple(classes), rest, train.subset(held_out), unlabelled, open_test, skipped)


def load_digits(
    validation: int | float = 297, unlabelled: Sequence[Folder] = (), cache: Folder | None = CACHE
) -> Dataset:
    """Load the handwritten digits that scikit-learn bundles: 1,797 images of 1x8x8, 500 of them for testing.

    Parameters
    ----------
    validation : int or float
        Training images set aside for validation: a number, or a share below 1.
    unlabelled, cache
        Those of `load_folder`.

    References
    ----------
    Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI machine learning repository.
    """
    from sklearn.datasets import load_digits as bundled

    arrays = bundled()
    images = torch.from_numpy(arrays.images).div(16).mul(255).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(arrays.target).long()
    order = stratified_order(labels, 0, "digits")
    everything = Labelled(images, labels)
    train, test = everything.subset(order[500:]), everything.subset(order[:500])
    pools = load_unlabelled(unlabelled, 8, 1, cache) if unlabelled else None
    return _dataset([str(k) for k in range(10)], train, lambda: test, validation, pools)


def load_cifar10(
    root: Folder = "data",
    download: bool = True,
    validation: int | float = 5000,
    unlabelled: Sequence[Folder] = (),
    cache: Folder | None = CACHE,
) -> Dataset:
    """Load CIFAR-10: 60,000 images of 3x32x32, 10,000 of them for testing.

    Parameters
    ----------
    root : str or Path
        Folder that holds the data, or into which torchvision downloads it and checks its checksum.
    download : bool
        Download what is missing.
    validation : int or float
        Training images set aside for validation: a number, or a share below 1.
    unlabelled, cache
        Those of `load_folder`.

    Raises
    ------
    UserError
        When the data is missing and may not, or cannot, be downloaded.

    References
    ----------
    Krizhevsky (2009), Learning multiple layers of features from tiny images, technical report, Toronto.
    """
    from torchvision.datasets import CIFAR10

    def split(train: bool) -> tuple[Labelled, list[str]]:
        try:
            source = CIFAR10(str(Path(root).expanduser()), train=train, download=download)
        except (RuntimeError, OSError, urllib.error.URLError) as error:
            advice = (
                "check the connection, or put cifar-10-python.tar.gz there"
                if download
                else "let it be downloaded with data.download=true"
            )
            raise UserError(
                f"CIFAR-10 could not be had in data.root={root} ({_first_line(error)}): {advice}."
            ) from None
        return Labelled(torch.from_numpy(source.data).permute(0, 3, 1, 2), torch.tensor(source.targets)), source.classes

    if download and not Path(root, CIFAR10.base_folder).expanduser().exists():
        print(f"CIFAR-10 is not in {root} yet: downloading it from {CIFAR10.url}", file=sys.stderr)
    train, classes = split(train=True)
    pools = load_unlabelled(unlabelled, 32, 3, cache) if unlabelled else None
    return _dataset(classes, train, lambda: split(train=False)[0], validation, pools)


def load_folder(
    root: Folder,
    image_size: int = 32,
    channels: int = 3,
    validation: int | float = 0.1,
    unlabelled: Sequence[Folder] = (),
    cache: Folder | None = CACHE,
) -> Dataset:
    """Load the user's own images: ``root/train/<class>/*`` and ``root/test/<class>/*``, of any depth.

    Parameters
    ----------
    root : str or Path
        Folder with `train` and `test` in it. The classes are the folders in `train`, in alphabetical order.
    image_size : int
        Side in pixels to which every image is brought: the shorter side is scaled, the centre kept.
    channels : {1, 3}
        Grey or RGB.
    validation : int or float
        Training images set aside for validation: a number, or a share below 1.
    unlabelled : sequence of str or Path
        More folders of images, of any depth, without classes, for the unlabelled pool.
    cache : str or Path, optional
        Where decoded images are kept for later runs; None keeps them in memory.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image, or the test classes are not those of training.
    """
    root = Path(root).expanduser()
    classes = class_folders(root / "train")
    _refuse_overlap(root, unlabelled)
    train, skipped = _load_classes(root / "train", classes, image_size, channels, cache)
    pools = load_unlabelled(unlabelled, image_size, channels, cache) if unlabelled else None
    if unknown := sorted(set(class_folders(root / "test")) - set(classes)):
        raise UserError(f"{root / 'test'} has classes that {root / 'train'} lacks: {', '.join(unknown)}.")

    def open_test() -> Labelled:
        test, damaged = _load_classes(root / "test", classes, image_size, channels, cache)
        skipped.extend(skip for skip in damaged if skip not in skipped)
        return test

    return _dataset(classes, train, open_test, validation, pools, skipped)


def _refuse_overlap(root: Path, pools: Sequence[Folder]) -> None:
    """Refuse pools that hold the labelled images: stages would see test images, and training images twice."""
    for pool in [pools] if isinstance(pools, str | Path) else pools:
        for split in (root / "train", root / "test"):
            one, other = Path(pool).expanduser().resolve(), split.resolve()
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise UserError(f"data.unlabelled={pool} shares images with {split}: give folders beside it.")


def load_unlabelled(
    folders: Sequence[Folder], image_size: int = 32, channels: int = 3, cache: Folder | None = CACHE
) -> Decoded:
    """Load every image of any number of folders, of any depth; the parameters are those of `load_folder`.

    Raises
    ------
    UserError
        When a folder is missing, or holds no image that can be read.
    """
    if isinstance(folders, str | Path):
        folders = [folders]
    decoded = [_load_files(Path(folder).expanduser(), image_size, channels, cache) for folder in folders]
    return Decoded(
        decoded[0].images if len(decoded) == 1 else torch.cat([d.images for d in decoded]),
        [path for d in decoded for path in d.paths],
        [skip for d in decoded for skip in d.skipped],
    )


def _load_files(folder: Path, image_size: int, channels: int, cache: Folder | None) -> Decoded:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    if channels not in (1, 3):
        raise UserError(f"data.channels={channels}: give 1 (grey) or 3 (RGB).")
    require_between("data.image_size", image_size, 1)
    decoded = decode_files(list_files(folder), image_size, channels, Path(cache).expanduser() if cache else None)
    if not decoded.paths:
        what = f"; the first of {len(decoded.skipped)}: {decoded.skipped[0].reason}" if decoded.skipped else ""
        raise UserError(f"{folder} holds no image that can be read{what}.")
    return decoded


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in `folder`, in alphabetical order."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: labelled images are expected in {folder}/<class>/.")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no class folders: labelled images are expected in {folder}/<class>/.")
    return classes


def _load_classes(
    folder: Path, classes: Sequence[str], image_size: int, channels: int, cache: Folder | None
) -> tuple[Labelled, list[Skipped]]:
    """Load `folder`, taking each image's class from the first folder of its path."""
    decoded = _load_files(folder, image_size, channels, cache)
    names = [path.relative_to(folder).parts[0] for path in decoded.paths]
    stray = [k for k, name in enumerate(names) if name not in classes]
    skipped = [*decoded.skipped, *(Skipped(str(decoded.paths[k]), "not in a class folder") for k in stray)]
    labels = torch.tensor([classes.index(name) for name in names if name in classes])
    if folder.name == "train" and (empty := sorted(set(classes) - set(names))):
        raise UserError(f"{folder} has no readable image of the class {', '.join(empty)}.")
    if len(stray) == len(names):
        raise UserError(f"{folder} has no readable image in its class folders ({folder}/<class>/).")
    images = decoded.images
    if stray:
        images = images[[k for k, name in enumerate(names) if name in classes]]
    return Labelled(images, labels), skipped


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
