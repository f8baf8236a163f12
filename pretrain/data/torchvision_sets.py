"""Sets of images that torchvision downloads and reads."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from pretrain.data.dataset import Dataset
from pretrain.data.dataset_settings import CIFAR10Data
from pretrain.data.encoded_images import EncodedImages, PixelArrays, image_files, seen
from pretrain.data.image_cache import Decoded, decode_images
from pretrain.data.leakage_check import Named
from pretrain.data.one_set import gather_one_set
from pretrain.data.skipped_files import Skipped
from pretrain.data.torchvision_settings import WITH_VALIDATION, TorchvisionData
from pretrain.data.unlabelled_pools import load_pools
from pretrain.errors import UserError
from pretrain.runs.progress import say

# How torchvision is asked for each split. Validation images are drawn where a set has none.
BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
BY_NAME_WITH_VALIDATION = {**BY_NAME, "validation": {"split": "val"}}
SPLITS_OF: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST"), BY_FLAG),
    "EMNIST": {split: {"split": "balanced", **flag} for split, flag in BY_FLAG.items()},
    **dict.fromkeys(("SVHN", "STL10"), BY_NAME),
    **dict.fromkeys(WITH_VALIDATION, BY_NAME_WITH_VALIDATION),
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "Imagenette": {"train": {"size": "160px", "split": "train"}, "test": {"size": "160px", "split": "val"}},
}
# What torchvision raises for files that are missing or damaged.
FAULTS = (RuntimeError, OSError, ValueError, AssertionError, IndexError, KeyError, EOFError)


def read_torchvision(source: TorchvisionData) -> Dataset:
    """Return a set of `torchvision.datasets`, downloading it if it is missing and `source.download` is true.

    Raises
    ------
    UserError
        When the data is missing and downloading is not allowed or fails.
    """
    sets = {split: _opened(source, arguments) for split, arguments in SPLITS_OF[source.dataset].items()}
    decoded = {split: _decoded(source, _encoded(images, split)) for split, images in sets.items()}
    labels = {split: _labels_of(images) for split, images in sets.items()}
    skipped = [skip for each, _ in decoded.values() for skip in each.skipped]
    pools, more_skipped = load_pools(source, [_unlabelled_of_stl10(source)] if source.dataset == "STL10" else [])
    return gather_one_set(
        source,
        _classes_of(source, sets["train"]),
        Named.joined([each.named for each, _ in decoded.values()]),
        torch.cat([labels[split][kept] for split, (_, kept) in decoded.items()]),
        [split for split, (_, kept) in decoded.items() for _ in kept],
        test=None,
        pools=pools,
        skipped=[*skipped, *more_skipped],
        recorded=False,
    )


def _opened(source: TorchvisionData, arguments: dict[str, Any]) -> Any:
    """Return torchvision's object for a split, after a download if that is needed."""
    import torchvision.datasets

    kind = getattr(torchvision.datasets, source.dataset)
    try:
        return kind(source.root, download=False, **arguments)
    except FAULTS as error:
        if not source.download:
            raise unreadable(source.dataset, source, error, "") from None
    say(f"{source.dataset} is not in {source.root} yet: downloading it with torchvision")
    with alone_in(Path(source.root)):
        try:
            return kind(source.root, download=True, **arguments)
        except FAULTS as error:
            raise unreadable(source.dataset, source, error, "put the files that torchvision expects there") from None


def _encoded(images: Any, split: str) -> tuple[EncodedImages, list[Skipped]]:
    """Return the images of a split, which torchvision holds as pixels or as names of files."""
    if (pixels := getattr(images, "data", None)) is not None:
        arrays = _channels_last(np.asarray(pixels))
        # EMNIST stores its images mirrored at their diagonal.
        arrays = arrays.transpose(0, 2, 1) if type(images).__name__ == "EMNIST" else arrays
        key = blake2b(np.ascontiguousarray(arrays).data, digest_size=16).digest()
        return PixelArrays(arrays, [f"{split} {k}" for k in range(len(arrays))], key), []
    return image_files(_files_of(images))


def _files_of(images: Any) -> list[str]:
    """Return the files of a split, which torchvision keeps under a name of its own for each set."""
    if hasattr(images, "_samples"):
        return [str(path) for path, _ in images._samples]
    return [str(path) for path in getattr(images, "_image_files", None) or images._images]


def _labels_of(images: Any) -> Tensor:
    """Return the class of each image of a split."""
    if hasattr(images, "_samples"):
        return torch.tensor([k for _, k in images._samples])
    found = next(getattr(images, name) for name in ("targets", "labels", "_labels") if hasattr(images, name))
    return torch.as_tensor(np.asarray(found)).long()


def _channels_last(arrays: np.ndarray) -> np.ndarray:
    return arrays.transpose(0, 2, 3, 1) if arrays.ndim == 4 and arrays.shape[1] == 3 else arrays


def _decoded(source: TorchvisionData, encoded: tuple[EncodedImages, list[Skipped]]) -> tuple[Decoded, list[int]]:
    """Return images in the form that is set, and which of them could be read."""
    images, odd = encoded
    cache = Path(os.path.expanduser(source.cache)) if source.cache else None
    channels, height, width = source.shape
    decoded = decode_images(images, (height, width), channels, cache, odd)
    places = {name: k for k, name in enumerate(images.names)}
    return decoded, [places[name] for name in decoded.paths]


def _classes_of(source: TorchvisionData, images: Any) -> Sequence[str]:
    """Return the names of the classes; numbers where the set has none."""
    names = getattr(images, "classes", None) or source.class_names()
    # Imagenette has several names for each.
    return [name if isinstance(name, str) else name[0] for name in names]


def _unlabelled_of_stl10(source: TorchvisionData) -> Decoded:
    """Return the unlabelled images of STL10."""
    from torchvision.datasets import STL10

    file = Path(source.root, STL10.base_folder, STL10.train_list[2][0])
    # The file is mapped, and not read: it has more images than fit into a small memory.
    arrays = np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
    key = blake2b(seen(file.stat()), digest_size=16).digest()
    decoded, _ = _decoded(source, (PixelArrays(arrays, [f"unlabelled {k}" for k in range(len(arrays))], key), []))
    return decoded


def alone_in(root: Path) -> FileLock:
    """Return a lock on a folder of data, since two downloads at once would damage each other's files."""
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / ".download.lock")


def unreadable(title: str, source: CIFAR10Data | TorchvisionData, error: BaseException, remedy: str) -> UserError:
    """Return the error for a set that could not be read, or downloaded where that is allowed."""
    advice = f"check the connection, or {remedy}" if source.download else "download it with data.download=true"
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{title} could not be read from data.root={source.root} ({line.rstrip('.')}): {advice}.")
