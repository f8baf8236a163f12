"""The folder of a run: its settings, measurements and checkpoints."""

import json
import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning_fabric import Fabric

from pretrain.errors import DamagedFileError, UserError
from pretrain.runs.atomic_files import PART, errors_that_name
from pretrain.runs.processes import first_then_others, precision_of
from pretrain.runs.progress import complain
from pretrain.runs.resumption import differences, first_few, flatten
from pretrain.runs.saved_states import SavedStates
from pretrain.runs.sealed_files import digest_of, digest_of_values, read_config, read_json, write_config, write_json
from pretrain.runs.sittings import add_sitting, holder, recorded_products, sittings
from pretrain.runs.tensor_files import SUFFIX
from pretrain.runs.typed_settings import Config, as_config, may_differ

LOG = SavedStates.LOG
# A run writes these before its work, so overwriting them loses nothing.
SETUP_FILES = {"config.yaml", "env.json", "skipped.csv", "leakage.json", "failure.txt"}
# Traces are in no digest of the summary, so that they may be deleted once they have been looked at.
TRACES = "trace-*.json.gz"
RESULT_FILES = {LOG, f"checkpoint{SUFFIX}", "*.previous" + SUFFIX, "summary.json", TRACES}
# Earlier versions wrote these with torch.save, which does not notice damage.
OLD_FILES = {"checkpoint.pt", "stack.pt", "network.pt"}
# Systems put these into folders that are empty to their users.
CLUTTER = {"lost+found", "Thumbs.db", "desktop.ini"}
JOBS = "slurm"  # folder of a comparison's jobs and their logs, within that of the comparison


class RunFolder:
    """The folder of one run: config.yaml, env.json, metrics.jsonl, checkpoints, and summary.json last.

    Whatever is read is checked against the digest with which it was written. An open folder is locked: only one process
    at a time computes a run. Use it in a ``with`` block to unlock it at the end; the system unlocks it when the process
    ends in whatever way.

    Parameters
    ----------
    path : Path
        The folder.
    writes : bool
        Whether this process writes; False for all but the first of several processes.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = Path(path), writes
        self.products: tuple[str, ...] = ()
        self.states = SavedStates(self.path, identity=None)
        self.lock = run_lock(self.path)
        self._folder: tuple[int, int] | None = None  # device and inode of the open folder

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Config,
        *,
        products: Iterable[str] = (),
        overwrite: bool = False,
        ignore: Iterable[str] = (),
        writes: bool = True,
    ) -> "RunFolder":
        """Start a run in `path`, or resume the run in it.

        Parameters
        ----------
        path : str or Path
            Folder of the run. It is created if it is missing.
        config : dict
            Settings of the run. A run in the folder must have the same.
        products : iterable of str
            Patterns of the files that this kind of run writes, beyond those of every run. They are written to env.json,
            so that overwriting the run deletes these files and no others.
        overwrite : bool
            Whether a run with other settings, or with damaged files, is deleted.
        ignore : iterable of str
            Dotted paths of settings that may differ.
        writes : bool
            Whether this process writes.

        Raises
        ------
        UserError
            When the folder contains a run with other settings or damaged files, or files but no run, or when another
            process is computing the run.
        """
        folder, ignore = cls(Path(path), writes), tuple(ignore)
        folder.products = tuple(products)
        folder.states = SavedStates(folder.path, _identity(config, ignore))
        folder._refuse_other_files()
        if writes:
            folder._acquire()
        if trouble := folder._trouble(config, ignore):
            if not overwrite:
                folder.close()
                raise UserError(trouble)
            folder._clear()
        # A complete run keeps the record of how it was made.
        if writes and folder.summary() is None:
            folder._record(config)
        status = folder.path.stat()
        folder._folder = status.st_dev, status.st_ino
        return folder

    def __enter__(self) -> "RunFolder":
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock the folder."""
        self.close()

    def close(self) -> None:
        """Unlock the folder; this object may still read it."""
        self.lock.release()

    def _acquire(self) -> None:
        """Lock the folder, which is created where it is missing."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{self.path} is in use by {holder(self.path)}: wait until it has ended, or give another out=."
            ) from None
        except OSError:
            # A complete run is only read, which a folder that cannot be written allows.
            if not self.is_complete:
                raise

    def _refuse_other_files(self) -> None:
        """Refuse a folder of something else than a run."""
        there = self._entries()
        if {"config.yaml", "env.json"} <= there or not there - {"failure.txt"}:
            return
        # An interruption, or a loss, may have left some of the files of a run, beginning with its settings.
        own = {*SETUP_FILES, *RESULT_FILES, *self.products}
        foreign = [name for name in there if not any(fnmatch(name, pattern) for pattern in own)]
        if foreign or "config.yaml" not in there:
            raise UserError(f"{self.path} is not empty and holds no run: give another out=.")

    def _trouble(self, config: Config, ignore: Iterable[str]) -> str | None:
        """Return why the run in the folder is not the one with these settings, or cannot be used; None if it is."""
        there = self._entries()
        restart = "Give another out=, or overwrite=true to start again."
        if old := sorted(there & OLD_FILES):
            return f"{self.path} holds files of an older version of pretrain ({', '.join(old)}). {restart}"
        if not there - SETUP_FILES:
            return None
        try:
            if differing := differences(read_config(self.path / "config.yaml"), config, ignore):
                return f"{self.path} holds a run with other settings: {first_few(differing)}. {restart}"
            self._drop_damaged_summary()
            self.check()
        except DamagedFileError as error:
            return str(error)
        return None

    def _drop_damaged_summary(self) -> None:
        """Take a run whose summary cannot be read for one that was interrupted before its end."""
        try:
            self.summary()
        except DamagedFileError as error:
            complain(f"note: {error.file} is damaged ({error.reason}), so the run is not complete: going on with it")
            if self.writes:
                error.file.unlink()

    def _entries(self) -> set[str]:
        """Return the names in the folder, without hidden files, unfinished ones and what systems put there."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: give another out=.")
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        return {name for name in names - CLUTTER - {JOBS} if not name.startswith(".") and not name.endswith(PART)}

    def _clear(self) -> None:
        """Delete the files that the run in this folder wrote, and no others."""
        if not self.writes:
            return
        patterns = {*SETUP_FILES, *RESULT_FILES, *OLD_FILES, *self.products, *recorded_products(self.path)}
        for file in [file for pattern in patterns for file in self.path.glob(pattern)]:
            file.unlink(missing_ok=True)

    def _record(self, config: Config) -> None:
        """Write the settings, and add this sitting to the environments of the run."""
        has_begun = any((self.path / name).exists() for name in (LOG, f"checkpoint{SUFFIX}"))
        write_config(self.path / "config.yaml", config)
        add_sitting(self.path, self.products, resumes=has_begun)

    def environments(self) -> list[dict[str, Any]]:
        """Return the environment of each sitting of the run; see `pretrain.runs.sittings`."""
        return sittings(self.path)

    def config(self) -> Config:
        """Return the settings of the run.

        Raises
        ------
        UserError
            When the folder holds no run or its config.yaml is damaged.
        """
        file = self.path / "config.yaml"
        if not file.exists():
            raise UserError(f"{self.path} holds no run (no config.yaml).")
        return read_config(self.checked("config.yaml"))

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a complete run; None for an incomplete one.

        Raises
        ------
        DamagedFileError
            When summary.json is damaged.
        """
        file = self.path / "summary.json"
        return read_json(file) if file.exists() else None

    @property
    def is_complete(self) -> bool:
        """Whether the run has written its summary, whatever has happened to the folder since."""
        return (self.path / "summary.json").exists()

    def check(self) -> None:
        """Compare the files of a complete run with their digests in its summary.

        Raises
        ------
        DamagedFileError
            When one is missing or has changed.
        """
        for name, digest in self._digests().items():
            _check(self.path / name, digest)

    def checked(self, name: str) -> Path:
        """Return a file of the run, compared with its digest in the summary if the run is complete.

        Raises
        ------
        DamagedFileError
            When the file is missing, or is not what the run wrote.
        """
        file, digests = self.path / name, self._digests()
        if name in digests:
            _check(file, digests[name])
        return file

    def _digests(self) -> dict[str, str]:
        """Return the digests of the files of a complete run by their names; none of an incomplete one."""
        return (self.summary() or {}).get("files", {})

    def failure(self) -> str | None:
        """Return why the run failed or, though complete, was refused for its settings; None if neither."""
        note = self.path / "failure.txt"
        return note.read_text(encoding="utf-8", errors="replace").strip() if note.exists() else None

    def accepted(self) -> dict[str, Any] | None:
        """Return the summary of a complete run; None if it is incomplete or was refused later."""
        return self.summary() if self.failure() is None else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as complete, with the digests of its files, and delete the checkpoints, no longer needed."""
        if not self.writes:
            return
        patterns = ("config.yaml", "env.json", "skipped.csv", "leakage.json", LOG, *self.products)
        files = sorted({file for pattern in patterns for file in self.path.glob(pattern)})
        digests = {file.relative_to(self.path).as_posix(): digest_of(file.read_bytes()) for file in files}
        write_json(self._writable("summary.json"), {**summary, "files": digests})
        for file in [self.path / f"checkpoint{SUFFIX}", *self.path.glob(f"*.previous{SUFFIX}")]:
            file.unlink(missing_ok=True)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        if self.writes:
            file = self._writable(LOG)
            with errors_that_name(file), file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl, without a last line that an interruption cut short.

        Raises
        ------
        DamagedFileError
            When a row cannot be read, or the run is complete and its log has changed since.
        """
        file = self.checked(LOG)
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise DamagedFileError(file, "a row cannot be read") from None

    def rewind(self) -> None:
        """Drop the rows logged after the state that was last saved or loaded; a resumed run logs them again."""
        if self.writes and (self.path / LOG).exists():
            os.truncate(self._writable(LOG), self.states.logged)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Save a state under a name, and keep the one before; see `SavedStates`."""
        if self.writes:
            self._writable(name)
            self.states.save(name, state)

    def load(self, name: str, phase: str | None = None) -> dict[str, Any] | None:
        """Return the last state of a name that is undamaged, or None; see `SavedStates`."""
        return self.states.load(name, phase)

    def require_there(self) -> None:
        """Raise a `UserError` if the folder is not the one that was opened any more."""
        if self._folder is None:
            return
        status = self.path.stat() if self.path.exists() else None
        if status is None or (status.st_dev, status.st_ino) != self._folder:
            raise UserError(f"{self.path} was moved or deleted while the run was writing to it: run it again.")

    def _writable(self, name: str) -> Path:
        """Return a file to write, in the folder that was opened."""
        self.require_there()
        return self.path / name


def _check(file: Path, digest: str) -> None:
    """Raise a `DamagedFileError` unless a file of a complete run is what the run wrote."""
    if not file.exists():
        raise DamagedFileError(file, "it is missing, though the run is complete")
    if digest_of(file.read_bytes()) != digest:
        raise DamagedFileError(file, "it is not what the run wrote")


def run_lock(path: Path) -> FileLock:
    """Return the lock of a run's folder, the same one at each call in a process, which may hold it several times."""
    return FileLock(Path(path) / ".lock", is_singleton=True)


def _identity(config: Config, ignore: Iterable[str]) -> str:
    """Return a digest of the settings that bind a run."""
    free = tuple(f"{key}." for key in ignore)
    return digest_of_values({key: value for key, value in flatten(config).items() if not f"{key}.".startswith(free)})


def open_run(settings: Any, bound_to: Mapping[str, Any], fabric: Fabric, ignore: Iterable[str] = ()) -> RunFolder:
    """Open the folder of a run, ``settings.out``.

    Parameters
    ----------
    settings : dataclass
        Settings of the run. A run in the folder must have the same, except for settings that may differ. The attribute
        ``products`` names the files that the run writes.
    bound_to : dict of str to str
        Digests of the data and the trained stages that the run depends on.
    fabric : Fabric
        Fabric of the run. Its first process opens the folder before the others.
    ignore : iterable of str
        Dotted paths of more settings that may differ.
    """
    given = as_config(settings)
    # The precision that "auto" stands for binds the run.
    device = {**given["device"], "precision": precision_of(fabric)}
    config = {**given, "device": device, **bound_to}
    options = {"overwrite": settings.overwrite, "ignore": (*may_differ(settings), *ignore)}
    return first_then_others(
        fabric,
        lambda: RunFolder.open(
            settings.out, config, products=settings.products, writes=fabric.global_rank == 0, **options
        ),
    )
