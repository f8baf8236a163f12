"""Arms x label budgets x seeds: every cell a run in a folder of its own, and only what is missing is run."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric
from omegaconf import OmegaConf

from pretrain.config import device_settings, load_data
from pretrain.data import Dataset
from pretrain.errors import UserError
from pretrain.pipeline import open_run, run_finetune, run_stages
from pretrain.runs import Config, RunFolder

# What may grow in a second call: the runs that are there stay, and keep their own settings.
GRID = ("arms", "labels", "seeds", "baseline")


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes
    ----------
    arm : str
        Its name in the configuration.
    labels : int or str
        Label budget, or "all".
    seed : int
        Draws the labels, the initial weights and, for a pretrained arm, the pretraining.
    """

    arm: str
    labels: int | str
    seed: int

    def folder(self, out: Path) -> Path:
        """Return the run's folder within that of the comparison."""
        return out / "runs" / self.arm / f"labels-{self.labels}" / f"seed-{self.seed}"

    def config(self, config: Config, out: Path) -> Config:
        """Return the run's settings: what all arms share, and what this arm changes."""
        shared = {key: config[key] for key in ("data", "stack", "finetuning", "device", "overwrite")}
        changed = config["arms"][self.arm] or {}
        merged = OmegaConf.merge(shared, {"stages": None, "init": "scratch"}, changed)
        run = OmegaConf.to_container(merged)
        assert isinstance(run, dict)
        if run["init"] == "pretrained":
            run["stages"] = str(stages_folder(out, self.seed))
        return {
            "arm": self.arm,
            "labels": self.labels,
            "seed": self.seed,
            "out": str(self.folder(out)),
            **run,
        }


def stages_folder(out: Path, seed: int) -> Path:
    """Return the folder of the pretraining that the pretrained arms of a seed share."""
    return out / "stages" / f"seed-{seed}"


def cells(config: Config) -> Iterator[Cell]:
    """Go through the grid, seed by seed, so that an interrupted comparison has whole seeds."""
    for seed in config["seeds"]:
        for labels in config["labels"]:
            for arm in config["arms"]:
                yield Cell(arm, labels, seed)


def compare(config: Config) -> Path:
    """Run what is missing of a comparison, in the folder ``config["out"]``, and return that folder.

    Parameters
    ----------
    config : dict
        As conf/compare.yaml.

    Raises
    ------
    UserError
        When a setting is wrong, or the folder holds something else. A run that fails is recorded in its
        folder, in failure.txt, and the others go on; the error comes at the end.
    """
    _check(config)
    fabric = device_settings(config["device"]).launch()
    out = Path(config["out"])
    folder = open_run(config, fabric, ignore=GRID)
    data = load_data(config["data"], fabric)
    folder.write_skipped(data.skipped)
    grid = list(cells(config))
    failures = []
    started, done_here = time.monotonic(), 0
    for position, cell in enumerate(grid, 1):
        run = RunFolder(cell.folder(out))
        was_there = run.summary() is not None
        try:
            summary = _run_cell(cell, config, out, data, fabric)
        except UserError as error:
            failures.append(f"{cell.folder(out)}: {error}")
            _record_failure(run, error)
            continue
        done_here += not was_there
        left = (time.monotonic() - started) / max(done_here, 1) * (len(grid) - position)
        if not was_there and fabric.global_rank == 0:
            print(
                f"[{position}/{len(grid)}] {cell.arm}, {cell.labels} labels, seed {cell.seed}: validation "
                f"{_percent(summary['val_accuracy'])}; about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
    if failures and len(failures) == len(grid):
        raise UserError(f"every run failed; the first: {failures[0]}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return out


def _run_cell(cell: Cell, config: Config, out: Path, data: Dataset, fabric: Fabric) -> Config:
    run = cell.config(config, out)
    if run["init"] == "pretrained":
        shared = {key: config[key] for key in ("data", "stack", "device", "overwrite")}
        run_stages({**shared, "seed": cell.seed, "out": run["stages"]}, data, fabric)
    summary = run_finetune(run, data, fabric)
    (cell.folder(out) / "failure.txt").unlink(missing_ok=True)
    return summary


def _record_failure(run: RunFolder, error: UserError) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    if (run.path / "config.yaml").exists():
        (run.path / "failure.txt").write_text(f"{error}\n")


def _check(config: Config) -> None:
    if config["baseline"] not in config["arms"]:
        raise UserError(f"baseline={config['baseline']} is not an arm; choose one of {', '.join(config['arms'])}.")
    for name in ("labels", "seeds"):
        if not isinstance(config[name], list) or not config[name]:
            raise UserError(f"{name}={config[name]}: give a list, for example {name}=[0,1,2].")


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"
