"""The settings that every data set has, whatever its form."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

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
ImageSize = Side | Annotated[list[Side], TWO]
Channels = Literal[1, 3]
DEFAULT_CACHE = "~/.cache/pretrain"


@dataclass(frozen=True, kw_only=True)
class DataSource(Settings):
    """Settings of every data set.

    Attributes
    ----------
    validation : int or float
        Number of training images set aside for validation, or their share below 1.
    unlabelled : sequence of str or Path
        More images for the unlabelled pool: folders of any depth, without classes; tar files, whose names end with .tar
        and may be patterns; or data sets that ``save_to_disk`` wrote. One needs no list.
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

    @property
    def title(self) -> str:
        """What a report calls the data set."""
        return self.name

    @property
    def draws_validation(self) -> bool:
        """Whether validation images are drawn from the training images in any case."""
        return True

    @property
    def pool_titles(self) -> list[str]:
        """What a report calls the unlabelled images besides those for training."""
        return [*self.unlabelled]

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
        """Return the settings of the data set that `config` names, one of those in `dataset_settings`.

        Raises
        ------
        UserError
            When there is no such data set or a setting is wrong.
        """
        if not isinstance(config, dict) or "name" not in config:
            raise UserError(f"{where}={config} is not a data set: give its name and its settings.")
        with at(where):
            # Who reads configurations imports this class from there, so that all kinds are known.
            kinds = {kind.name: kind for kind in DataSource.__subclasses__()}
            choose("name", config["name"], kinds)
        return typed(kinds[config["name"]], {key: value for key, value in config.items() if key != "name"}, where)


class Resized:
    """Data whose images are brought to a size and a number of channels that are settings."""

    image_size: Any
    channels: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """The volume (C, H, W) of an image."""
        return (self.channels, *self.size)

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of an image."""
        height, width = self.image_size if isinstance(self.image_size, list) else (self.image_size, self.image_size)
        return height, width


def named_folders(folders: Any) -> list[str]:
    """Return one folder of unlabelled images, or several, as a list; an empty name would mean the current folder.

    Raises
    ------
    UserError
        When there is a folder without a name.
    """
    with at("data"):
        return fields_accepted(DataSource, {"unlabelled": folders})["unlabelled"]
