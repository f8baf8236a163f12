"""The saved states of a training run: the last two of each name, bound to the run and to its log."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.errors import DamagedFileError
from pretrain.runs.progress import complain
from pretrain.runs.sealed_files import digest_of
from pretrain.runs.tensor_files import SUFFIX, load_state, save_state


class SavedStates:
    """States in the folder of a run. Each carries the digest of the run's settings, and of its log so far.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    identity : str, optional
        Digest of the settings that bind the run. A state of another run is not loaded.

    Attributes
    ----------
    logged : int
        Bytes of the log that belong to the state last saved or loaded.
    """

    LOG = "metrics.jsonl"

    def __init__(self, folder: Path, identity: str | None):
        self.folder, self.identity, self.logged = folder, identity, 0
        self._damaged: set[Path] = set()  # files that were found damaged, which never replace a good one

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a state, and keep the one before under the name of `previous`."""
        file, log = self.folder / f"{name}{SUFFIX}", self._log()
        if file.exists() and file not in self._damaged:
            file.replace(previous(file))
        bound = {"run": self.identity, "log": {"bytes": len(log), "digest": digest_of(log)}}
        save_state(file, {**state, "bound": bound})
        self.logged = len(log)
        self._damaged.discard(file)

    def load(self, name: str, phase: str | None = None) -> dict[str, Any] | None:
        """Read the last state of a name, or the one before if the last is damaged.

        Parameters
        ----------
        name : str
            Name given to `save`.
        phase : str, optional
            The entry "phase" that the state must have; others are passed over.

        Returns
        -------
        dict or None
            None if there is no such state that can be used. A line on standard error says what is damaged.
        """
        newest = self.folder / f"{name}{SUFFIX}"
        for file in [each for each in (newest, previous(newest)) if each.exists()]:
            try:
                state = load_state(file)
                self._check_bound(file, bound := state.pop("bound", {}))
            except DamagedFileError as error:
                self._damaged.add(file)
                complain(f"note: {error.file} is damaged ({error.reason}): going on from what was saved before it")
                continue
            if phase in (None, state.get("phase")):
                self.logged = bound["log"]["bytes"]
                return state
        return None

    def _check_bound(self, file: Path, bound: dict[str, Any]) -> None:
        """Refuse a state of another run, or one whose log is not there any more."""
        if bound.get("run") != self.identity:
            raise DamagedFileError(file, "it belongs to another run")
        if digest_of(self._log()[: bound["log"]["bytes"]]) != bound["log"]["digest"]:
            raise DamagedFileError(self.folder / self.LOG, "it is not what the run wrote")

    def _log(self) -> bytes:
        file = self.folder / self.LOG
        return file.read_bytes() if file.exists() else b""


def previous(file: Path) -> Path:
    """Return the name under which the state before the last one is kept."""
    return file.with_name(file.name.replace(SUFFIX, f".previous{SUFFIX}"))
