"""Unlabelled images in folders, at any depth, in tar shards and in saved data sets."""

import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.data.data_source import DEFAULT_CACHE, DataSource, named_folders
from pretrain.data.dataset_settings import check_image_format
from pretrain.data.decoding import Size
from pretrain.data.encoded_images import EncodedImages, image_files
from pretrain.data.file_listing import list_files
from pretrain.data.image_cache import Decoded, decode_images
from pretrain.data.lazy_images import LazyImages
from pretrain.data.leakage_check import Named
from pretrain.data.saved_datasets import is_saved, open_saved, saved_images
from pretrain.data.skipped_files import Skipped
from pretrain.data.tar_shards import are_shards, read_shards
from pretrain.errors import UserError
from pretrain.runs.progress import complain

Folder = str | Path


def load_pools(source: DataSource, own: Sequence[Decoded] = ()) -> tuple[Named | None, list[Skipped]]:
    """Return the data set's own unlabelled images and those that the settings name, if any, and files that are none.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image.
    """
    decoded = [*own]
    if source.unlabelled:
        channels, height, width = source.shape
        decoded.append(load_unlabelled(source.unlabelled, (height, width), channels, source.cache))
    if not decoded:
        return None, []
    pools = _joined(decoded)
    return pools.named, pools.skipped


def load_unlabelled(
    folders: Sequence[Folder], image_size: Size = 32, channels: int = 3, cache: Folder | None = DEFAULT_CACHE
) -> Decoded:
    """Load every image at any depth of one or more folders; the parameters are those of `FolderData`.

    Raises
    ------
    UserError
        When a folder is missing or has no readable image.
    """
    decoded = [_load_pool(Path(folder), image_size, channels, cache) for folder in named_folders(folders)]
    return _joined(decoded)


def _joined(decoded: Sequence[Decoded]) -> Decoded:
    return Decoded(
        LazyImages.joined([d.images for d in decoded]),
        [path for d in decoded for path in d.paths],
        [skip for d in decoded for skip in d.skipped],
    )


def _load_pool(folder: Path, image_size: Size, channels: int, cache: Folder | None) -> Decoded:
    """Decode unlabelled images; those in folders that cannot be listed are left out, and the user is told."""
    if are_shards(folder):
        samples = read_shards([folder], "data.unlabelled")
        return decode_readable(folder, samples.images, samples.skipped, image_size, channels, cache)
    if is_saved(folder):
        decoded = [
            decode_readable(folder, saved_images(split, name), [], image_size, channels, cache)
            for name, split in open_saved(folder, "data.unlabelled").items()
        ]
        return _joined(decoded)
    paths, odd = files_in(folder)
    for skip in odd:
        if skip.passing:
            complain(f"{skip.path} {skip.reason}: its images are left out")
    files, none = image_files(paths)
    return decode_readable(folder, files, [*odd, *none], image_size, channels, cache)


def files_in(folder: Path) -> tuple[list[str], list[Skipped]]:
    """Return the files of a folder at any depth, and what could not be listed, as `list_files` does.

    Raises
    ------
    UserError
        When there is no such folder.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder.")
    return list_files(folder)


def decode_readable(
    where: Folder,
    encoded: EncodedImages,
    odd: Sequence[Skipped],
    image_size: Size,
    channels: int,
    cache: Folder | None,
) -> Decoded:
    """Decode images, tell the user what may be wrong with them, and add what is `odd` to the skipped files.

    Raises
    ------
    UserError
        When there is no readable image; the line names `where`.
    """
    check_image_format(image_size, channels)
    folder = Path(os.path.expanduser(cache)) if cache else None
    decoded = decode_images(encoded, image_size, channels, folder, odd)
    if not decoded.paths:
        raise UserError(f"{where} has no readable image{first_reason(decoded.skipped)}.")
    for line in decoded.remarks:
        complain(line)
    return decoded


def first_reason(skipped: Sequence[Skipped]) -> str:
    """Return why the first of some files was skipped, to be added to a line."""
    return f"; the first of {len(skipped)}: {skipped[0].reason}" if skipped else ""
