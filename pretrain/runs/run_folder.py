"""The folder of a run: its settings, measurements and checkpoints."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric

from pretrain.errors import UserError
from pretrain.runs.atomic_files import load_checkpoint, write_text
from pretrain.runs.environment import environment
from pretrain.runs.processes import first_then_others, precision_of
from pretrain.runs.resumption import differences, first_few
from pretrain.runs.typed_settings import Config, as_config, may_differ

# A run writes these before its work, so overwriting them loses nothing.
SETUP_FILES = {"config.yaml", "env.json", "skipped.csv", "leakage.json", "failure.txt"}
RESULT_FILES = {"metrics.jsonl", "checkpoint.pt", "summary.json"}


class RunFolder:
    """The folder of one run: config.yaml, env.json, metrics.jsonl, checkpoints, and summary.json last.

    Parameters
    ----------
    path : Path
        The folder.
    writes : bool
        Whether this process writes; False for all but the first of several processes.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = Path(path), writes

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
            Whether a run with other settings is deleted.
        ignore : iterable of str
            Dotted paths of settings that may differ.
        writes : bool
            Whether this process writes.

        Raises
        ------
        UserError
            When the folder contains a run with other settings, or files but no run.
        """
        folder = cls(Path(path), writes)
        there = folder._entries()
        if not {"config.yaml", "env.json"} <= there:
            if there - {"failure.txt"} and not folder._begun(there, config, ignore):
                raise UserError(f"{path} is not empty and holds no run: give another out=.")
        elif there - SETUP_FILES and (differing := differences(folder.config(), config, ignore)):
            if not overwrite:
                raise UserError(
                    f"{path} holds a run with other settings: {first_few(differing)}. "
                    "Give another out=, or overwrite=true to start again."
                )
            folder._clear()
        # A complete run keeps the record of how it was made.
        if folder.writes and folder.summary() is None:
            folder.path.mkdir(parents=True, exist_ok=True)
            write_text(folder.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            write_text(
                folder.path / "env.json", json.dumps({**environment(), "products": [*products]}, indent=2) + "\n"
            )
        return folder

    def _begun(self, there: set[str], config: Config, ignore: Iterable[str]) -> bool:
        """Return whether the folder contains only the first files of this run, interrupted while it started."""
        mine = {"config.yaml", "failure.txt", "config.yaml.part", "env.json.part"}
        return there <= mine and ("config.yaml" not in there or not differences(self.config(), config, ignore))

    def _entries(self) -> set[str]:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: give another out=.")
        return {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()

    def _clear(self) -> None:
        """Delete the files that the run in this folder wrote, and no others."""
        if self.writes:
            products = self.environment().get("products")
            if products is None:
                raise UserError(f"{self.path} holds a run of an older version: delete it, or give another out=.")
            for file in [
                file for pattern in (*SETUP_FILES, *RESULT_FILES, *products) for file in self.path.glob(pattern)
            ]:
                file.unlink()

    def environment(self) -> dict[str, Any]:
        """Return the contents of env.json."""
        return json.loads((self.path / "env.json").read_text())

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
        try:
            config = yaml.safe_load(file.read_text())
        except yaml.YAMLError:
            config = None
        if not isinstance(config, dict):
            raise UserError(f"{file} is damaged: give another folder.")
        return config

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a complete run; None for an incomplete one."""
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def failure(self) -> str | None:
        """Return why the run failed or, though complete, was refused for its settings; None if neither."""
        note = self.path / "failure.txt"
        return note.read_text().strip() if note.exists() else None

    def accepted(self) -> dict[str, Any] | None:
        """Return the summary of a complete run; None if it is incomplete or was refused later."""
        return self.summary() if self.failure() is None else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as complete, and delete the checkpoint, which is no longer needed."""
        if self.writes:
            write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
            (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        if self.writes:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl, without a last line that an interruption cut short."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    def rewind(self, phase: str, step: int) -> None:
        """Drop the rows of a phase after `step`, which a resumed run logs again."""
        kept = [row for row in self.metrics() if row["phase"] != phase or row["step"] <= step]
        if self.writes and (self.path / "metrics.jsonl").exists():
            write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; an interruption leaves the previous one intact."""
        if self.writes:
            scratch = self.path / f"{name}.part"
            torch.save(dict(state), scratch)
            scratch.replace(self.path / name)

    def load(self, name: str) -> dict[str, Any] | None:
        """Read a checkpoint without executing anything in it; None if there is none."""
        file = self.path / name
        return load_checkpoint(file) if file.exists() else None


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
