"""Load the data that settings describe."""

from collections.abc import Callable
from typing import Any

from lightning_fabric import Fabric

from pretrain.data.cifar10 import read_cifar10
from pretrain.data.data_source import DataSource
from pretrain.data.dataset import Dataset
from pretrain.data.dataset_settings import (
    CIFAR10Data,
    DigitsData,
    FolderData,
    HuggingFaceData,
    TorchvisionData,
    WebDatasetData,
)
from pretrain.data.digits import read_digits
from pretrain.data.huggingface_sets import read_huggingface
from pretrain.data.image_folder import read_folder
from pretrain.data.shard_samples import read_webdataset
from pretrain.data.torchvision_sets import read_torchvision
from pretrain.runs.processes import first_then_others
from pretrain.runs.progress import complain

READERS: dict[type[DataSource], Callable[[Any], Dataset]] = {
    DigitsData: read_digits,
    CIFAR10Data: read_cifar10,
    FolderData: read_folder,
    TorchvisionData: read_torchvision,
    WebDatasetData: read_webdataset,
    HuggingFaceData: read_huggingface,
}


def load_data(source: DataSource, fabric: Fabric) -> Dataset:
    """Load a data set in the first process, which may download and decode, then in the others.

    Raises
    ------
    UserError
        When a setting is wrong or the images cannot be loaded.
    """
    data = first_then_others(fabric, lambda: READERS[type(source)](source))
    if data.skipped:
        complain(f"{len(data.skipped):,} files could not be read as images and are left out; see the run's skipped.csv")
    if data.leakage and data.leakage.shared:
        complain(str(data.leakage))
    return data


def load_digits(**settings: Any) -> Dataset:
    """Load the handwritten digits that scikit-learn bundles; the settings are those of `DigitsData`."""
    return read_digits(DigitsData(**settings))


def load_cifar10(root: Any = "data", **settings: Any) -> Dataset:
    """Load CIFAR-10; the settings are those of `CIFAR10Data`.

    Raises
    ------
    UserError
        When the data is missing and downloading is not allowed or fails.
    """
    return read_cifar10(CIFAR10Data(root, **settings))


def load_folder(root: Any = None, **settings: Any) -> Dataset:
    """Load the user's own images; the settings are those of `FolderData`.

    Without `root`, they are the images of ``unlabelled=[DIR, ...]`` alone, which stages can learn from.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image, or when a test class has no training folder.
    """
    return read_folder(FolderData(root, **settings))


def load_torchvision(dataset: Any, root: Any = "data", **settings: Any) -> Dataset:
    """Load a set of `torchvision.datasets`; the settings are those of `TorchvisionData`.

    Raises
    ------
    UserError
        When the data is missing and downloading is not allowed or fails.
    """
    return read_torchvision(TorchvisionData(dataset=dataset, root=root, **settings))


def load_huggingface(path: Any, **settings: Any) -> Dataset:
    """Load a data set that the library datasets has saved; the settings are those of `HuggingFaceData`.

    Raises
    ------
    UserError
        When the library is missing, or the data set cannot be read.
    """
    return read_huggingface(HuggingFaceData(path=path, **settings))


def load_webdataset(shards: Any, **settings: Any) -> Dataset:
    """Load the images of tar shards; the settings are those of `WebDatasetData`.

    Raises
    ------
    UserError
        When a shard is missing or damaged.
    """
    return read_webdataset(WebDatasetData(shards=shards, **settings))
