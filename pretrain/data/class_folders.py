"""The folders of labelled images, one for each class."""

import os
from collections.abc import Collection
from pathlib import Path

from pretrain.errors import UserError


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in `folder`, in alphabetical order.

    Raises
    ------
    UserError
        When the folder is missing, cannot be listed or has no class folder, or when a class is a broken link.
    """
    advice = f"put the labelled images into {folder}/<class>/."
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            broken = [entry.path for entry in shown if entry.is_symlink() and not os.path.exists(entry.path)]
            classes = sorted(entry.name for entry in shown if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is missing: {advice}") from None
    except OSError as error:
        raise unlistable(folder, f"cannot be listed ({error.strerror})") from None
    if broken:
        raise UserError(f"{broken[0]} is a link to nothing, or in a circle: mend it or remove it.")
    if not classes:
        raise UserError(f"{folder} has no class folders: {advice}")
    return classes


def classes_in(folder: Path, *, parted: bool) -> list[str]:
    """Return the names of the class folders of training images.

    Parameters
    ----------
    folder : Path
        Folder that contains them.
    parted : bool
        Whether test images lie in a folder beside this one, and not in the same class folders.

    Raises
    ------
    UserError
        When there are none, or when the images do not lie so.
    """
    root = folder.parent
    if parted and not folder.exists() and root.is_dir() and any(each.is_dir() for each in root.iterdir()):
        raise UserError(
            f"{folder} is missing: put the labelled images into {folder}/<class>/, or set a share of {root}/<class>/ "
            "aside for testing with data.test=0.2."
        )
    classes = class_folders(folder)
    if not parted and {"train", "test"} <= {*classes}:
        raise UserError(
            f"data.test sets images of {folder}/<class>/ aside, but {folder} has the folders train and test: "
            "leave out data.test."
        )
    return classes


def class_order(names: Collection[str]) -> list[str]:
    """Return the names of classes in order: of their numbers where all are whole numbers, else of the alphabet."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def unlistable(folder: str | Path, reason: str) -> UserError:
    """Return the error for a folder of labelled images that cannot be listed."""
    return UserError(
        f"{folder} {reason}, so its images would be missing: "
        "give yourself the right to read it (chmod u+rx), or move it elsewhere."
    )
