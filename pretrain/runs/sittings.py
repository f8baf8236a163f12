"""The sittings of a run: the environment of each call that worked on it, in env.json."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrain.errors import DamagedFileError
from pretrain.runs.environment import deciding_changes, environment
from pretrain.runs.progress import complain
from pretrain.runs.sealed_files import read_json, write_json

FILE = "env.json"


def sittings(folder: Path) -> list[dict[str, Any]]:
    """Return the environment of each sitting of the run in a folder, the last one at the end; none without the file.

    Raises
    ------
    DamagedFileError
        When env.json is damaged.
    """
    if not (folder / FILE).exists():
        return []
    content = read_json(folder / FILE)
    # Older versions kept the last environment alone.
    return content.get("sittings", [content])


def recorded_products(folder: Path) -> list[str]:
    """Return the patterns of the files that the run in a folder writes; none where they cannot be read."""
    try:
        return read_json(folder / FILE).get("products", [])
    except (DamagedFileError, FileNotFoundError):
        return []


def add_sitting(folder: Path, patterns: Iterable[str], *, resumes: bool) -> None:
    """Add this process to the sittings, and say on standard error if a run that resumes may now give other bits.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    patterns : iterable of str
        Patterns of the files that the run writes.
    resumes : bool
        Whether the run has computed something already.
    """
    before, now = [], environment()
    try:
        before = sittings(folder)
    except DamagedFileError as error:
        complain(f"note: {error.file} is damaged ({error.reason}): the earlier environments of the run are lost")
    if resumes and before and (changed := deciding_changes(before[-1], now)):
        complain(
            f"note: {folder} goes on in another environment, so its bits may differ from those of an uninterrupted "
            f"run: {'; '.join(changed)}"
        )
    write_json(folder / FILE, {"products": [*patterns], "sittings": [*before, now]})


def holder(folder: Path) -> str:
    """Return which process works on the run in a folder, and since when, as far as it has said so."""
    try:
        last = sittings(folder)[-1]
        return f"process {last['process']} on {last['host']}, since {last['started']}"
    except (DamagedFileError, KeyError, IndexError):
        return "another process"
