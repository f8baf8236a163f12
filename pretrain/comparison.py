"""Arms x label budgets x seeds: every cell a run in a folder of its own, and only what is missing is run."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric
from omegaconf import OmegaConf

from pretrain.config import device_settings, finetuning_settings, load_data
from pretrain.data import Dataset
from pretrain.data.splits import label_subset
from pretrain.errors import UserError
from pretrain.pipeline import check_init, open_run, run_finetune, run_stages
from pretrain.runs import Config, RunFolder, write_text

# What may change in a second call: the runs that are there stay. So may arms be added, but not changed.
GRID = ("labels", "seeds", "baseline", "seed")


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

    def __str__(self) -> str:
        """Name the run, for a line of text."""
        return f"{self.arm}, {self.labels} labels, seed {self.seed}"

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


def compare(config: Config) -> list[str]:
    """Run what is missing of a comparison, in the folder ``config["out"]``.

    Parameters
    ----------
    config : dict
        As conf/compare.yaml.

    Returns
    -------
    list of str
        A line for each run that failed. The reason is in its folder as well, in failure.txt; the others went on.

    Raises
    ------
    UserError
        When a setting is wrong, or the folder holds something else.
    """
    _check(config)
    fabric = device_settings(config["device"]).launch()
    out = Path(config["out"])
    data = load_data(config["data"], fabric)
    folder = open_run(config, data, fabric, ignore=(*GRID, *_added_or_removed(config, out)))
    folder.write_skipped(data.skipped)
    _check_budgets(config, data)
    grid = list(cells(config))
    missing = [cell for cell in grid if RunFolder(cell.folder(out)).summary() is None]
    failures: list[str] = []
    failed_stages: dict[int, UserError] = {}
    started = time.monotonic()
    for cell in grid:
        try:
            summary = _run_cell(cell, config, out, data, fabric, failed_stages)
        except UserError as error:
            failures.append(f"{cell}: {error}")
            if folder.writes:
                cell.folder(out).mkdir(parents=True, exist_ok=True)
                write_text(cell.folder(out) / "failure.txt", f"{error}\n")
            continue
        if cell in missing and folder.writes:
            done = missing.index(cell) + 1
            left = (time.monotonic() - started) / done * (len(missing) - done)
            print(
                f"[{grid.index(cell) + 1}/{len(grid)}] {cell}: validation {_percent(summary['val_accuracy'])}; "
                f"about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
    return failures


def _added_or_removed(config: Config, out: Path) -> list[str]:
    """Name, as settings, the arms that only one of this call and the comparison in `out` has."""
    there = RunFolder(out).config().get("arms", {}) if (out / "config.yaml").exists() else {}
    return [f"arms.{arm}" for arm in {*there} ^ {*config["arms"]}]


def _run_cell(
    cell: Cell, config: Config, out: Path, data: Dataset, fabric: Fabric, failed_stages: dict[int, UserError]
) -> Config:
    run = cell.config(config, out)
    if run["init"] == "pretrained":
        if cell.seed in failed_stages:
            raise failed_stages[cell.seed]
        shared = {key: config[key] for key in ("data", "stack", "device", "overwrite")}
        try:
            run_stages({**shared, "seed": cell.seed, "out": run["stages"]}, data, fabric)
        except UserError as error:
            failed_stages[cell.seed] = error
            raise
    summary = run_finetune(run, data, fabric)
    (cell.folder(out) / "failure.txt").unlink(missing_ok=True)
    return summary


def _check(config: Config) -> None:
    """Refuse what would make every run fail, or mean something else than it says, before any work is done."""
    if config["baseline"] not in config["arms"]:
        raise UserError(f"baseline={config['baseline']} is not an arm; choose one of {', '.join(config['arms'])}.")
    for name in ("labels", "seeds"):
        values = config[name]
        if not isinstance(values, list) or not values or len({*map(str, values)}) < len(values):
            raise UserError(f"{name}={values}: give a list without repeats, for example {name}=[10,20,50].")
        if wrong := [value for value in values if type(value) is not int and (name, value) != ("labels", "all")]:
            raise UserError(f"{name}={values}: {wrong[0]} is not a whole number.")
    for arm, changed in config["arms"].items():
        if unknown := {*(changed or {})} - {"init", "finetuning"}:
            raise UserError(f"arms.{arm}.{min(unknown)} cannot differ between arms; only init and finetuning can.")
        run = Cell(arm, config["labels"][0], config["seeds"][0]).config(config, Path())
        check_init(run["init"])
        finetuning_settings(run["finetuning"])


def _check_budgets(config: Config, data: Dataset) -> None:
    for labels in config["labels"]:
        label_subset(data.train.labels, None if labels == "all" else labels, seed=0)
    if "all" in config["labels"] and len(data.train) in config["labels"]:
        raise UserError(f"labels={config['labels']}: {len(data.train)} are all; name them once.")


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"
