"""Where images come from: the data sets that a configuration can name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_fabric import Fabric

from pretrain.data.cifar10 import load_cifar10
from pretrain.data.dataset import Dataset
from pretrain.data.digits import load_digits
from pretrain.data.image_folder import class_folders, load_folder
from pretrain.errors import choose
from pretrain.runs.device import first_then_others
from pretrain.runs.progress import complain
from pretrain.runs.settings import Config, typed_keywords

SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "folder": load_folder,
}


def load_data(config: Config, fabric: Fabric) -> Dataset:
    """Load the data that conf/data/ describes, the first process before the others: it may download or decode.

    Raises
    ------
    UserError
        When there is no such data set, a setting of it is wrong, or its images cannot be had.
    """
    choose("data.name", config["name"], SOURCES)
    settings = dict(config)
    source = SOURCES[settings.pop("name")]
    if "root" in settings:
        settings["root"] = str(settings["root"])  # a folder's name may be a number
    if "unlabelled" in settings and not isinstance(settings["unlabelled"], list):
        settings["unlabelled"] = [] if settings["unlabelled"] is None else [str(settings["unlabelled"])]
    typed_settings = typed_keywords(source, settings, "data")
    data = first_then_others(fabric, lambda: source(**typed_settings))
    if data.skipped:
        complain(
            f"{len(data.skipped):,} files could not be read as images and are left out; see skipped.csv of the run"
        )
    if data.leakage and data.leakage.shared:
        complain(str(data.leakage))
    return data


def data_shape(config: Config) -> tuple[tuple[int, int, int], Sequence[str]]:
    """Return the volume (C, H, W) of an image and the classes, without loading any.

    Raises
    ------
    UserError
        When there is no such data set, or no folder of its classes.
    """
    choose("data.name", config["name"], SOURCES)
    if config["name"] == "folder":
        shape = (config["channels"], config["image_size"], config["image_size"])
        return shape, class_folders(Path(str(config["root"])).expanduser() / "train")
    return {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}[config["name"]], [str(k) for k in range(10)]
