"""The settings of the sets that torchvision reads."""

from dataclasses import dataclass
from typing import Literal

from pretrain.data.data_source import Channels, DataSource, ImageSize, Resized
from pretrain.runs.setting_types import FileName
from pretrain.runs.typed_settings import Resuming, setting

# Side in pixels, channels and classes of the sets that torchvision reads. MNIST and its kind have 28 pixels, which the
# stacks do not halve three times. The sets of files have images of many sizes.
SETS = {
    "CIFAR10": (32, 3, 10),
    "CIFAR100": (32, 3, 100),
    "SVHN": (32, 3, 10),
    "STL10": (96, 3, 10),
    "MNIST": (32, 1, 10),
    "FashionMNIST": (32, 1, 10),
    "KMNIST": (32, 1, 10),
    "EMNIST": (32, 1, 47),
    "Flowers102": (64, 3, 102),
    "OxfordIIITPet": (64, 3, 37),
    "Imagenette": (64, 3, 10),
    "DTD": (64, 3, 47),
}


WITH_VALIDATION = ("Flowers102", "DTD")


@dataclass(frozen=True, kw_only=True)
class TorchvisionData(Resized, DataSource):
    """A set of images that torchvision reads and downloads, with its own test split.

    Attributes
    ----------
    dataset : str
        Name of the set, as in `torchvision.datasets`. EMNIST is its balanced split, and Imagenette that of 160 pixels.
        The unlabelled images of STL10 are in the unlabelled pool.
    root : str or Path
        Folder of the data. torchvision downloads missing data into it.
    download : bool
        Whether missing data is downloaded.
    image_size, channels
        As in `FolderData`; None for those of the set, 32 pixels for 28, or 64 where its images have many sizes.
    """

    name = "torchvision"
    dataset: Literal[
        "CIFAR10",
        "CIFAR100",
        "SVHN",
        "STL10",
        "MNIST",
        "FashionMNIST",
        "KMNIST",
        "EMNIST",
        "Flowers102",
        "OxfordIIITPet",
        "Imagenette",
        "DTD",
    ]
    root: FileName = setting("data", resuming=Resuming.FREE)
    download: bool = setting(True, resuming=Resuming.FREE)
    image_size: ImageSize | None = None
    channels: Channels | None = None

    def fill_in(self) -> None:
        """Take the size and the channels of the set where none are given."""
        side, channels, _ = SETS[self.dataset]
        for name, own in (("image_size", side), ("channels", channels)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, own)

    @property
    def title(self) -> str:
        """What a report calls the data set."""
        return self.dataset

    @property
    def draws_validation(self) -> bool:
        """Whether the set has no validation images of its own."""
        return self.dataset not in WITH_VALIDATION

    @property
    def pool_titles(self) -> list[str]:
        """What a report calls the unlabelled images besides those for training."""
        own = ["the unlabelled split of STL10"] if self.dataset == "STL10" else []
        return [*own, *self.unlabelled]

    def class_names(self) -> list[str]:
        """Return the numbers of the classes; the set itself may have names for them."""
        return [str(k) for k in range(SETS[self.dataset][2])]
