"""The settings of each data set, with the shape and the classes of its images."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pretrain.data.class_folders import class_order, classes_in
from pretrain.data.data_source import Channels, DataSource, ImageSize, Resized, Test, Validation
from pretrain.data.label_table import read_label_table

# Who reads configurations imports this module, which must know every kind.
from pretrain.data.torchvision_settings import TorchvisionData as TorchvisionData
from pretrain.runs.setting_types import ONE_OR_MORE, FileName
from pretrain.runs.typed_settings import Resuming, at, fields_accepted, setting


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
class FolderData(Resized, DataSource):
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
    image_size: ImageSize = 32
    channels: Channels = 3
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
    def title(self) -> str:
        """What a report calls the data set."""
        return str(self.table or self.root)

    @property
    def draws_validation(self) -> bool:
        """Whether validation images are drawn in any case; a table may mark some."""
        return self.table is None

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


@dataclass(frozen=True, kw_only=True)
class WebDatasetData(Resized, DataSource):
    """Images in WebDataset's tar shards: a sample is an image and a label with one name, as in 7.jpg and 7.cls.

    Attributes
    ----------
    shards : sequence of str or Path
        Tar files with training images, folders of them, or patterns such as ``train-{000..127}.tar``.
    validation_shards, test_shards : sequence of str or Path
        The same for the other splits. Validation images are drawn from the training images where there are none.
    test : int or float, optional
        Number of the images of `shards` that are set aside for testing, or their share below 1, chosen by their
        content, where there are no test shards.
    label : str
        Ending of the files with the labels, which are numbers or names.
    image_size, channels
        As in `FolderData`.
    """

    name = "webdataset"
    shards: Annotated[list[FileName], ONE_OR_MORE] = setting(resuming=Resuming.FREE)
    validation_shards: Annotated[list[FileName], ONE_OR_MORE] = setting(factory=list, resuming=Resuming.FREE)
    test_shards: Annotated[list[FileName], ONE_OR_MORE] = setting(factory=list, resuming=Resuming.FREE)
    test: Test | None = None
    label: str = "cls"
    image_size: ImageSize = 32
    channels: Channels = 3

    def contradictions(self) -> Iterator[str]:
        """Yield the problem of no images at all, or of no test images."""
        yield from super().contradictions()
        if not self.shards:
            yield "shards is missing: give tar files with training images."
        if not self.test_shards and self.test is None:
            yield "test_shards is missing: give tar files, or set a share of the images aside with data.test=0.2."
        if self.test_shards and self.test is not None:
            yield f"test={self.test}: there are test shards, so leave it out."

    @property
    def title(self) -> str:
        """What a report calls the data set."""
        return ", ".join(self.shards)

    @property
    def draws_validation(self) -> bool:
        """Whether there are no shards of validation images."""
        return not self.validation_shards

    def class_names(self) -> list[str]:
        """Return the labels in the shards with training images.

        Raises
        ------
        UserError
            When a shard is missing or damaged.
        """
        # Settings are checked without the libraries that decode images.
        from pretrain.data.tar_shards import read_shards

        labels = read_shards(self.shards, "data.shards", self.label).labels
        return class_order({label for label in labels if label is not None})


@dataclass(frozen=True, kw_only=True)
class HuggingFaceData(Resized, DataSource):
    """A data set of the library datasets (Hugging Face) on disk, with a column of images and one of labels.

    Its splits are told by their names: train, validation (or valid, val, dev), test, and unlabelled. Validation images
    are drawn from the training images where there are none.

    Attributes
    ----------
    path : str or Path
        Folder that ``save_to_disk`` wrote, or folder of parquet files.
    image, label : str, optional
        Columns of the images and of the labels; None for the only ones of such types.
    test : int or float, optional
        Number of training images that are set aside for testing, or their share below 1, chosen by their content, where
        there is no split for testing.
    image_size, channels
        As in `FolderData`.
    """

    name = "huggingface"
    path: FileName = setting(resuming=Resuming.FREE)
    image: str | None = None
    label: str | None = None
    test: Test | None = None
    image_size: ImageSize = 32
    channels: Channels = 3

    @property
    def title(self) -> str:
        """What a report calls the data set."""
        return self.path

    @property
    def draws_validation(self) -> bool:
        """Whether validation images are drawn in any case; there may be a split of them."""
        return False

    def class_names(self) -> list[str]:
        """Return the names of the classes that occur.

        Raises
        ------
        UserError
            When the library is missing, or the data set cannot be read.
        """
        # Settings are checked without the library, which loads for seconds.
        from pretrain.data.saved_datasets import class_names_in, labelled_splits, open_saved

        return class_names_in([*labelled_splits(open_saved(self.path, "data.path")).values()], self.label)


def check_image_format(image_size: Any, channels: int) -> None:
    """Raise a `UserError` unless images can be brought to so many pixels a side and so many channels."""
    with at("data"):
        fields_accepted(FolderData, {"image_size": image_size, "channels": channels})
