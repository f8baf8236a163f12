"""CIFAR-10, through torchvision."""

import sys
import urllib.error
from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.image_folder import CACHE, Folder, load_unlabelled
from pretrain.data.leakage_check import Named
from pretrain.errors import UserError


def load_cifar10(
    root: Folder = "data",
    download: bool = True,
    validation: int | float = 5000,
    unlabelled: Sequence[Folder] = (),
    cache: Folder | None = CACHE,
    shared: str = "leave_out",
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
    unlabelled, cache, shared
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

    def split(train: bool) -> CIFAR10:
        try:
            return CIFAR10(str(Path(root).expanduser()), train=train, download=download)
        except (RuntimeError, OSError, urllib.error.URLError) as error:
            advice = (
                "check the connection, or put cifar-10-python.tar.gz there"
                if download
                else "let it be downloaded with data.download=true"
            )
            raise UserError(
                f"CIFAR-10 could not be had in data.root={root} ({_first_line(error)}): {advice}."
            ) from None

    def named(source: CIFAR10) -> Named:
        name = "train" if source.train else "test"
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2)
        return Named(images, [f"{name} {k}" for k in range(len(images))])

    def labelled(source: CIFAR10) -> Labelled:
        return Labelled(named(source).images, torch.tensor(source.targets))

    if download and not Path(root, CIFAR10.base_folder).expanduser().exists():
        print(f"CIFAR-10 is not in {root} yet: downloading it from {CIFAR10.url}", file=sys.stderr)
    train = split(train=True)
    pools = load_unlabelled(unlabelled, 32, 3, cache) if unlabelled else None
    return gather(
        train.classes,
        labelled(train),
        named(train).names,
        lambda: labelled(split(train=False)),
        lambda: named(split(train=False)),
        validation,
        pools,
        shared,
    )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
