"""List the files of a folder of images, whatever else it holds."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pretrain.data.skipped_files import Skipped


def list_files(folder: Path) -> tuple[list[str], list[Skipped]]:
    """Return every file at any depth below `folder`, sorted by path, without hidden ones.

    Links to folders are followed, except to a folder that contains the link, which would never end.

    Returns
    -------
    files : list of str
        All that is no folder; some may be no plain files either.
    skipped : list of Skipped
        Folders that could not be listed, and links that were not followed.
    """
    files: list[str] = []
    skipped: list[Skipped] = []
    # For each folder still to be searched: the folders on the way to it, including itself.
    passed = {os.fspath(folder): {os.path.realpath(folder)}}
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_reporter(skipped)):
        above = passed.pop(root) | {*_with_parents(os.path.realpath(root))}
        inside = {name: os.path.realpath(os.path.join(root, name)) for name in folders if name[0] != "."}
        folders[:] = [name for name, real in inside.items() if real not in above]
        skipped += [
            Skipped(os.path.join(root, name), "a link to a folder that contains it")
            for name, real in inside.items()
            if real in above
        ]
        passed |= {os.path.join(root, name): above | {inside[name]} for name in folders}
        files += [os.path.join(root, name).removeprefix(f".{os.sep}") for name in names if name[0] != "."]
    # What is in a folder stays together, even where another's name goes on with a space.
    return sorted(files, key=lambda path: path.replace(os.sep, "\0")), sorted(skipped, key=lambda skip: skip.path)


def _reporter(skipped: list[Skipped]) -> Callable[[OSError], None]:
    def report(error: OSError) -> None:
        skipped.append(Skipped(str(error.filename), f"cannot be listed ({error.strerror})", passing=True))

    return report


def _with_parents(path: str) -> Iterator[str]:
    yield path
    yield from map(os.fspath, Path(path).parents)
