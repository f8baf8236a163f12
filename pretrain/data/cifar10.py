"""CIFAR-10, read through torchvision."""

import urllib.error
from contextlib import nullcontext
from pathlib import Path

import torch

from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.dataset_settings import CIFAR10Data
from pretrain.data.lazy_images import as_lazy
from pretrain.data.leakage_check import Named
from pretrain.data.torchvision_sets import alone_in, unreadable
from pretrain.data.unlabelled_pools import load_pools
from pretrain.runs.progress import say


def read_cifar10(source: CIFAR10Data) -> Dataset:
    """Return CIFAR-10, downloading it if it is missing and `source.download` is true.

    Raises
    ------
    UserError
        When the data is missing and downloading is not allowed or fails.
    """
    from torchvision.datasets import CIFAR10

    def split(train: bool) -> CIFAR10:
        try:
            return CIFAR10(str(root), train=train, download=source.download)
        except (RuntimeError, OSError, urllib.error.URLError) as error:
            raise unreadable("CIFAR-10", source, error, "put cifar-10-python.tar.gz there") from None

    def named(images_of: CIFAR10) -> Named:
        name = "train" if images_of.train else "test"
        images = torch.from_numpy(images_of.data).permute(0, 3, 1, 2)
        return Named(as_lazy(images), [f"{name} {k}" for k in range(len(images))])

    def labelled(images_of: CIFAR10) -> Labelled:
        return Labelled(named(images_of).images, torch.tensor(images_of.targets))

    root = Path(source.root)
    missing = source.download and not (root / CIFAR10.base_folder).exists()
    if missing:
        say(f"CIFAR-10 is not in {source.root} yet: downloading it from {CIFAR10.url}")
    with alone_in(root) if missing else nullcontext():
        train = split(train=True)
    pools, skipped = load_pools(source)
    return gather(
        source,
        train.classes,
        named(train),
        torch.tensor(train.targets),
        lambda: labelled(split(train=False)),
        lambda: named(split(train=False)),
        pools,
        skipped,
    )
