"""Data sets of the library datasets (Hugging Face) on disk: their splits, columns and undecoded images."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pretrain.data.class_folders import class_order
from pretrain.data.decoding import DecodedImage, Size, decode_image, decode_stream
from pretrain.data.encoded_images import seen
from pretrain.data.pixel_depth import UnreadableImage
from pretrain.errors import UserError

# Files that save_to_disk writes, for several splits and for one.
SAVED = ("dataset_dict.json", "state.json")
LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")
NO_LABEL = -1
# What splits are called, and what they are here.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}
UNLABELLED = ("unlabelled", "unlabeled", "unsupervised")


@dataclass(frozen=True)
class SavedImages:
    """The images of a split, as `EncodedImages`.

    Attributes
    ----------
    rows : datasets.Dataset
        The one column of images. It is sent to another process as the names of its files.
    names : sequence of str
        Split and position of each.
    key : bytes
        Digest of the files.
    """

    rows: Any
    names: Sequence[str]
    key: bytes = b""

    def part(self, start: int, end: int) -> "SavedImages":
        """Return some of the images."""
        return SavedImages(self.rows.select(range(start, end)), self.names[start:end])

    def subset(self, kept: Sequence[int]) -> "SavedImages":
        """Return the images at some positions."""
        digest = blake2b(self.key + repr([*kept]).encode(), digest_size=16).digest()
        return SavedImages(self.rows.select(kept), [self.names[k] for k in kept], digest)

    def decode(self, k: int, size: Size, channels: int) -> DecodedImage:
        """Return image `k`, which is in the data set or in a file that it names."""
        (cell,) = self.rows[k].values()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is not None:
            return decode_stream(io.BytesIO(content), Path(path or "").suffix, size, channels)
        if path:
            return decode_image(path, size, channels)
        raise UnreadableImage("the cell is empty")


def is_saved(folder: str | Path) -> bool:
    """Return whether a folder is one that ``save_to_disk`` wrote."""
    return any(os.path.exists(os.path.join(folder, name)) for name in SAVED)


def open_saved(path: str | Path, where: str) -> dict[str, Any]:
    """Return the splits of a data set by their names; one alone is called "train".

    Parameters
    ----------
    path : str or Path
        Folder that ``save_to_disk`` wrote, or folder of parquet files.
    where : str
        Name of the setting, for messages.

    Raises
    ------
    UserError
        When the library is missing, or the folder is neither.
    """
    folder = os.path.expanduser(path)
    library = _library()
    if not os.path.isdir(folder):
        raise UserError(f"{where}={path} is not a folder: give one of save_to_disk, or of parquet files.")
    if not is_saved(folder) and not any(Path(folder).rglob("*.parquet")):
        raise UserError(f"{where}={path} was not written by save_to_disk, and it has no parquet files.")
    try:
        with _without_progress(library):
            opened = library.load_from_disk(folder) if is_saved(folder) else library.load_dataset(folder)
    # The library raises many kinds of errors for damaged files.
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{where}={path} cannot be read ({line}): write it again.") from None
    splits = opened if isinstance(opened, Mapping) else {"train": opened}
    return {str(name): split.with_format(None) for name, split in splits.items()}


def labelled_splits(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the splits with labels, by their own names.

    Raises
    ------
    UserError
        When there is none for training.
    """
    given = {name: split for name, split in splits.items() if name in SPLITS}
    if "train" not in {SPLITS[name] for name in given}:
        raise UserError(f"data.path: there is no split train, but {', '.join(splits)}.")
    return given


def saved_images(split: Any, name: str, column: str | None = None) -> SavedImages:
    """Return the undecoded images of a split.

    Parameters
    ----------
    split : datasets.Dataset
        The split.
    name : str
        Its name.
    column : str, optional
        Column of the images; the only one of their type by default.

    Raises
    ------
    UserError
        When there is no such column.
    """
    library = _library()
    chosen = _column(split, column, "image", (_is_image, _is_bytes))
    rows = split.select_columns([chosen])
    if _is_image(split.features[chosen]):
        rows = rows.cast_column(chosen, library.Image(decode=False))
    digest = blake2b(repr((chosen, len(split), split._fingerprint)).encode(), digest_size=16)
    for file in split.cache_files:
        digest.update(os.fsencode(os.path.abspath(file["filename"])) + b"|" + seen(os.stat(file["filename"])))
    return SavedImages(rows, [f"{name}/{k}" for k in range(len(split))], digest.digest())


def saved_labels(split: Any, column: str | None = None) -> list[str | None]:
    """Return the name of the class of each image, None where there is none.

    Raises
    ------
    UserError
        When there is no column of labels, or several.
    """
    chosen = _column(split, column, "label", (_is_class, _is_named_label))
    feature, values = split.features[chosen], split.select_columns([chosen])[:][chosen]
    names = getattr(feature, "names", None)
    if names:
        return [None if value in (None, NO_LABEL) else names[value] for value in values]
    return [None if value is None or value == "" else str(value) for value in values]


def class_names_in(splits: Sequence[Any], column: str | None = None) -> list[str]:
    """Return the names of the classes that occur, in the order of the data set where it has one."""
    used = {label for split in splits for label in saved_labels(split, column) if label is not None}
    chosen = _column(splits[0], column, "label", (_is_class, _is_named_label))
    names = getattr(splits[0].features[chosen], "names", None)
    return [name for name in names if name in used] if names else class_order(used)


def _column(split: Any, given: str | None, setting: str, tests: Sequence[Callable[..., bool]]) -> str:
    """Return the column that is given, or the only one that passes the first test that any passes."""
    columns = ", ".join(split.features)
    if given is not None:
        if given not in split.features:
            raise UserError(f"data.{setting}={given}: there is no such column; choose one of {columns}.")
        return given
    found = next(
        (passed for test in tests if (passed := [name for name, each in split.features.items() if test(each, name)])),
        [],
    )
    if len(found) != 1:
        which = f"{len(found)} columns may be the {setting}" if found else f"no column is known to be the {setting}"
        raise UserError(f"data.{setting}: {which}; give one of {columns}.")
    return found[0]


def _is_image(feature: Any, name: str = "") -> bool:
    return type(feature).__name__ == "Image"


def _is_bytes(feature: Any, name: str) -> bool:
    """Return whether a column holds encoded images, of which parquet files of others do not say so."""
    return getattr(feature, "dtype", None) in ("binary", "large_binary") or (
        isinstance(feature, Mapping) and "bytes" in feature
    )


def _is_class(feature: Any, name: str) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _is_named_label(feature: Any, name: str) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return name in LABEL_NAMES and dtype.startswith(("int", "uint", "string", "large_string", "bool"))


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("the library datasets is missing: run pip install 'pretrain[huggingface]'.") from None
    return datasets


@contextmanager
def _without_progress(library: Any):  # type: ignore[no-untyped-def]
    """Silence the library's progress bars, unless they are off already."""
    shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()
