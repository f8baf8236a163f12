"""The settings of each data set, with the shape and the classes of its images."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pretrain.data.class_folders import classes_in
from pretrain.data.label_table import read_label_table
from pretrain.errors import UserError, choose
from pretrain.runs.setting_types import ONE_OR_MORE, TWO, FileName, In
from pretrain.runs.typed_settings import (
    Config,
    Resuming,
    Settings,
    at,
    fields_accepted,
    problems_within,
    setting,
    typed,
)

Side = Annotated[int, In(ge=1, le=4096)]
Test = Annotated[int, In(ge=1)] | Annotated[float, In(gt=0, lt=1)]
Validation = Annotated[int, In(ge=0)] | Annotated[float, In(ge=0, lt=1)]
DEFAULT_CACHE = "~/.cache/pretrain"


@dataclass(frozen=True, kw_only=True)
class DataSource(Settings):
    """Settings of every data set.

    Attributes
    ----------
    validation : int or float
        Number of training images set aside for validation, or their share below 1.
    unlabelled : sequence of str or Path
        More folders of images for the unlabelled pool, of any depth and without classes. One folder needs no list.
    duplicates : {"remove", "keep"}
        Treatment of unlabelled images that duplicate validation or test images, exactly or nearly.
    cache : str or Path, optional
        Folder that keeps decoded images for later runs; None keeps them in memory. Where it cannot be written, a line
        says so, and they stay in memory.
    """

    name: ClassVar[str]

    validation: Validation = 0.1
    # Digests bind a run to its images, which may lie elsewhere later.
    unlabelled: Annotated[list[FileName], ONE_OR_MORE] = setting(factory=list, resuming=Resuming.FREE)
    duplicates: Literal["remove", "keep"] = "remove"
    cache: FileName | None = setting(DEFAULT_CACHE, resuming=Resuming.FREE)

    def contradictions(self) -> Iterator[str]:
        """Yield the problem of a cache inside a folder of images."""
        if self.cache is not None:
            yield from problems_within("", self.refuse_output, "cache", self.cache)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The volume (C, H, W) of an image."""
        raise NotImplementedError

    @property
    def labelled(self) -> bool:
        """Whether there are labelled images."""
        return True

    def require_labels(self) -> None:
        """Raise a `UserError` if there are no labelled images."""
        if not self.labelled:
            raise UserError("root is missing: give the folder of labelled images, which are needed here.")

    @property
    def image_folders(self) -> list[Path]:
        """The folders whose images are read at any depth."""
        return [Path(os.path.expanduser(folder)) for folder in self.unlabelled]

    def refuse_output(self, where: str, folder: str) -> None:
        """Raise a `UserError` if a folder to be written, of the setting `where`, lies inside a folder of images."""
        written = Path(os.path.realpath(folder))
        for images in self.image_folders:
            inside = Path(os.path.realpath(images))
            if not written.is_relative_to(inside):
                continue
            # Hidden folders are not read.
            if not any(name.startswith(".") for name in written.relative_to(inside).parts):
                raise UserError(
                    f"{where}={folder} lies inside {images}, so what is written there would be read as images: "
                    "give a folder outside it."
                )

    def class_names(self) -> list[str]:
        """Return the names of the classes, in the order of the labels."""
        return [str(k) for k in range(10)]

    def to_config(self) -> Config:
        """Return the settings in the form that `from_config` takes."""
        return {"name": self.name, **vars(self)}

    @staticmethod
    def from_config(config: Any, where: str = "data") -> "DataSource":
        """Return the settings of the data set that `config` names.

        Raises
        ------
        UserError
            When there is no such data set or a setting is wrong.
        """
        if not isinstance(config, dict) or "name" not in config:
            raise UserError(f"{where}={config} is not a data set: give its name and its settings.")
        with at(where):
            choose("name", config["name"], SOURCES)
        return typed(SOURCES[config["name"]], {key: value for key, value in config.items() if key != "name"}, where)


@dataclass(frozen=True, kw_only=True)
class DigitsData(DataSource):
    """Handwritten digits that scikit-learn bundles: 1,797 gray images of 8x8, 500 of them for testing.

    References
    ----------
    Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI machine learning repository.
    """

    name = "digits"
    validation: Validation = 297

    @property
    def shape(self) -> tuple[int, int, int]:
        """The volume (C, H, W) of an image."""
        return 1, 8, 8


@dataclass(frozen=True)
class CIFAR10Data(DataSource):
    """CIFAR-10: 60,000 color images of 32x32, 10,000 of them for testing.

    Attributes
    ----------
    root : str or Path
        Folder of the data. torchvision downloads missing data into it and verifies the checksum.
    download : bool
        Whether missing data is downloaded.

    References
    ----------
    Krizhevsky (2009), Learning multiple layers of features from tiny images, technical report, Toronto.
    """

    name = "cifar10"
    root: FileName = setting("data", resuming=Resuming.FREE)
    download: bool = setting(True, resuming=Resuming.FREE)
    validation: Validation = field(default=5000, kw_only=True)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The volume (C, H, W) of an image."""
        return 3, 32, 32


@dataclass(frozen=True)
class FolderData(DataSource):
    """The user's own images, of any size, mode and depth.

    Labelled images are ``root/train/<class>/*`` and ``root/test/<class>/*``; or ``root/<class>/*``, of which some are
    set aside for testing; or the files that a table lists. Stages can learn from unlabelled images alone.

    Attributes
    ----------
    root : str or Path, optional
        Folder of the labelled images. The classes are the folders in `root/train`, or in `root` where `test` is given,
        in alphabetical order.
    image_size : int or list of int
        Side of every image in pixels, or its height and width: the image is scaled to the smallest size that covers
        it, and the center is cropped.
    channels : {1, 3}
        Number of channels: 1 for gray, 3 for RGB.
    test : int or float, optional
        Number of images set aside for testing, or their share below 1, chosen by their content. None: there is a folder
        `root/test`, or the table has a column split.
    table : str or Path, optional
        CSV file with a column file, a column label (or class), and perhaps a column split: train, validation or test.
        Files are relative to `root`, or to the folder of the table where there is no root.
    """

    name = "folder"
    root: FileName | None = setting(None, resuming=Resuming.FREE)
    image_size: Side | Annotated[list[Side], TWO] = 32
    channels: Literal[1, 3] = 3
    test: Test | None = field(default=None, kw_only=True)
    table: FileName | None = setting(None, resuming=Resuming.FREE, kw_only=True)

    def contradictions(self) -> Iterator[str]:
        """Yield the problem of no images at all, or of none to set aside."""
        yield from super().contradictions()
        if not self.labelled and not self.unlabelled:
            yield (
                "root is missing: give the folder of labelled images, root/train/<class>/* and root/test/<class>/*, or "
                "unlabelled images alone with data.unlabelled=[DIR]."
            )
        if not self.labelled and self.test is not None:
            yield f"test={self.test} is a share of labelled images: give data.root or data.table with it."

    @property
    def labelled(self) -> bool:
        """Whether there are labelled images."""
        return self.root is not None or self.table is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The volume (C, H, W) of an image."""
        return (self.channels, *self.size)

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of an image."""
        height, width = self.image_size if isinstance(self.image_size, list) else (self.image_size, self.image_size)
        return height, width

    @property
    def image_folders(self) -> list[Path]:
        """The folders whose images are read at any depth."""
        return self.class_parents + super().image_folders

    @property
    def class_parents(self) -> list[Path]:
        """The folders that contain class folders: that of the training images first."""
        if self.root is None or self.table is not None:
            return []
        root = Path(os.path.expanduser(self.root))
        return [root] if self.test is not None else [root / "train", root / "test"]

    def class_names(self) -> list[str]:
        """Return the names of the folders of training images, or the labels of the table.

        Raises
        ------
        UserError
            When there is no such folder, or something is wrong with the table.
        """
        self.require_labels()
        if self.table is not None:
            return read_label_table(self.table, self.root).classes
        return classes_in(self.class_parents[0], parted=self.test is None)


SOURCES: dict[str, type[DataSource]] = {kind.name: kind for kind in (DigitsData, CIFAR10Data, FolderData)}


def named_folders(folders: Any) -> list[str]:
    """Return one folder of unlabelled images, or several, as a list; an empty name would mean the current folder.

    Raises
    ------
    UserError
        When there is a folder without a name.
    """
    with at("data"):
        return fields_accepted(DataSource, {"unlabelled": folders})["unlabelled"]


def check_image_format(image_size: Any, channels: int) -> None:
    """Raise a `UserError` unless images can be brought to so many pixels a side and so many channels."""
    with at("data"):
        fields_accepted(FolderData, {"image_size": image_size, "channels": channels})
