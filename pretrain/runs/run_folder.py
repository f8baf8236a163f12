"""A run's folder: what it was told, what it measured, and how to go on after an interruption."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric

from pretrain.errors import UserError
from pretrain.runs.atomic_files import load_data, write_text
from pretrain.runs.environment import environment
from pretrain.runs.processes import first_then_others, precision_of
from pretrain.runs.resumption import differences, first_few
from pretrain.runs.settings import Config, as_config, may_differ

BEFORE_WORK = {"config.yaml", "env.json", "skipped.csv", "leakage.json", "failure.txt"}  # nothing is lost with these
DURING_WORK = {"metrics.jsonl", "checkpoint.pt", "summary.json"}


class RunFolder:
    """The folder of one run: config.yaml, env.json, metrics.jsonl, checkpoints, and summary.json last.

    Parameters
    ----------
    path : Path
        The folder.
    writes : bool
        False in all but the first of several processes: nothing is written then.
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
        """Begin a run in `path`, or go on with the one that is there.

        Parameters
        ----------
        path : str or Path
            The folder; made when missing.
        config : dict
            The run's settings. Those of a run that is there must be the same.
        products : iterable of str
            Patterns of the files that this kind of run writes beside those of every run. They are noted in env.json, so
            that overwriting the run deletes these files and no others.
        overwrite : bool
            Throw the run that is there away, if its settings differ.
        ignore : iterable of str
            Settings, by dotted path, that may differ: they do not change what is computed.

        Raises
        ------
        UserError
            When the folder holds a run with other settings (the differing ones are named), or no run but
            other files.
        """
        folder = cls(Path(path), writes)
        there = folder._entries()
        if not {"config.yaml", "env.json"} <= there:
            if there - {"failure.txt"} and not folder._begun(there, config, ignore):
                raise UserError(f"{path} is not empty and holds no run: give another out=.")
        elif there - BEFORE_WORK and (differing := differences(folder.config(), config, ignore)):
            if not overwrite:
                raise UserError(
                    f"{path} holds a run with other settings: {first_few(differing)}. "
                    "Give another out=, or overwrite=true to begin it again."
                )
            folder._clear()
        if folder.writes and folder.summary() is None:  # a complete run keeps the record of how it came about
            folder.path.mkdir(parents=True, exist_ok=True)
            write_text(folder.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            write_text(
                folder.path / "env.json", json.dumps({**environment(), "products": [*products]}, indent=2) + "\n"
            )
        return folder

    def _begun(self, there: set[str], config: Config, ignore: Iterable[str]) -> bool:
        """Say whether all that is there is the beginning of this very run: it was interrupted as it was written."""
        mine = {"config.yaml", "failure.txt", "config.yaml.part", "env.json.part"}
        return there <= mine and ("config.yaml" not in there or not differences(self.config(), config, ignore))

    def _entries(self) -> set[str]:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: give another out=.")
        return {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()

    def _clear(self) -> None:
        """Delete what the run that is there wrote into its folder, and nothing else."""
        if self.writes:
            products = self.environment().get("products", [])
            for file in [
                file for pattern in (*BEFORE_WORK, *DURING_WORK, *products) for file in self.path.glob(pattern)
            ]:
                file.unlink()

    def environment(self) -> dict[str, Any]:
        """Return where the run was computed, as env.json says."""
        return json.loads((self.path / "env.json").read_text())

    def config(self) -> Config:
        """Return the run's settings.

        Raises
        ------
        UserError
            When the folder holds no run, or its configuration is damaged.
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
        """Return the summary of a complete run; None while it is not complete."""
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def failure(self) -> str | None:
        """Return why the run failed, or was refused though it is complete: it has other settings; None if neither."""
        note = self.path / "failure.txt"
        return note.read_text().strip() if note.exists() else None

    def accepted(self) -> dict[str, Any] | None:
        """Return the summary of a complete run that was not refused since; else None."""
        return self.summary() if self.failure() is None else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as complete; the checkpoint to go on from is not needed any more."""
        if self.writes:
            write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
            (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl."""
        if self.writes:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; a last line that an interruption cut short is none."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    def rewind(self, phase: str, step: int) -> None:
        """Drop what was logged in this phase after `step`: an interrupted run does it again."""
        kept = [row for row in self.metrics() if row["phase"] != phase or row["step"] <= step]
        if self.writes and (self.path / "metrics.jsonl").exists():
            write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; an interruption leaves the former one whole."""
        if self.writes:
            scratch = self.path / f"{name}.part"
            torch.save(dict(state), scratch)
            scratch.replace(self.path / name)

    def load(self, name: str) -> dict[str, Any] | None:
        """Read a checkpoint, as data alone (nothing in it is executed); None where there is none."""
        file = self.path / name
        return load_data(file) if file.exists() else None


def open_run(settings: Any, bound_to: Mapping[str, Any], fabric: Fabric, ignore: Iterable[str] = ()) -> RunFolder:
    """Open the folder of a run, ``settings.out``.

    Parameters
    ----------
    settings : dataclass
        The run's. A run that is there must have the same, but for those that say that they may differ. Its class names
        the files that it writes, in ``products``.
    bound_to : dict of str to str
        Digests of what else the run depends on.
    fabric : Fabric
        Its first process opens the folder, then the others.
    ignore : iterable of str
        More settings, by dotted path, that may differ.
    """
    given = as_config(settings)
    device = {**given["device"], "precision": precision_of(fabric)}  # not auto: what it is here
    config = {**given, "device": device, **bound_to}
    options = {"overwrite": settings.overwrite, "ignore": (*may_differ(settings), *ignore)}
    return first_then_others(
        fabric,
        lambda: RunFolder.open(
            settings.out, config, products=settings.products, writes=fabric.global_rank == 0, **options
        ),
    )
