"""Run all that a comparison consists of: in one process, in several, or on several machines that share its folder."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock, Timeout
from lightning_fabric import Fabric

from pretrain.config import build_stack, device_settings, finetuning_settings, load_data, stage_settings
from pretrain.data import Dataset
from pretrain.data.splits import label_subset
from pretrain.device import keep_freed_memory
from pretrain.errors import UserError, require_between
from pretrain.finetuning import Finetuning
from pretrain.grid import Cell, Pretraining, Probing, Task, arm_of, recipes_of, stack_of, tasks, tuning_of
from pretrain.pipeline import run_finetune, run_probe, run_stages
from pretrain.runs import Config, RunFolder, differing_settings, first_few, write_text
from pretrain.stack import SAMPLE
from pretrain.starting import open_run

# What may change in a second call: the runs that are there stay. So may arms be added, but not changed.
GRID = ("labels", "seeds", "baseline", "seed", "probe", "jobs", "worker")
LOOK_AGAIN = 1.0  # seconds, while all that is left waits for other processes


def compare(config: Config) -> list[str]:
    """Run what is missing of a comparison, in the folder ``config["out"]``.

    Parameters
    ----------
    config : dict
        As conf/compare.yaml.

    Returns
    -------
    list of str
        A line for each task that failed. The reason is in its folder as well, in failure.txt; the others went on.

    Raises
    ------
    UserError
        When a setting is wrong, or the folder holds something else.
    """
    _check(config)
    started, jobs = time.time(), config["jobs"]
    if jobs == 1:
        return Worker(config, started).run()
    threads = config["device"]["threads"] or max(1, (os.cpu_count() or 1) // jobs)
    config = {**config, "device": {**config["device"], "threads": threads}}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        failures = pool.map(_work, [config] * jobs, [started] * jobs)
        return list(dict.fromkeys(line for lines in failures for line in lines))


def exclusively(out: str | Path) -> FileLock:
    """Return a lock for what two must not do at a time: open a comparison's folder, or write its report."""
    path = Path(out).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    lock.touch()  # where no file can be made, the lock would wait for ever
    return FileLock(lock)


def _work(config: Config, started: float) -> list[str]:
    keep_freed_memory()
    return Worker(config, started).run()


@dataclass
class Worker:
    """Goes through the tasks of a comparison and runs those that nobody else does.

    Others may do the same at the same time: a lock on each task, which the system frees when its holder ends, keeps
    them apart, and what another has finished is only looked at.

    Attributes
    ----------
    config : dict
        As conf/compare.yaml.
    started : float
        Since when a failure counts, in seconds since the epoch; what failed before that is tried again.
    settled : dict of Task to str or None
        Tasks that have come to an end, and why those failed that did.
    seconds : dict of str to list of float
        What this worker's tasks of each kind took.
    needs : dict of Task to list of Task
        All tasks, in order, each with those that must have come to an end before.
    """

    config: Config
    started: float
    settled: dict[Task, str | None] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        """Load the data, and open the folder, which is bound to it."""
        self.out = Path(self.config["out"])
        self.fabric = device_settings(self.config["device"]).launch()
        with exclusively(self.out) if self.fabric.world_size == 1 else nullcontext():  # loading may download
            self.data = load_data(self.config["data"], self.fabric)
            _check_data(self.config, self.data)
            ignored = (*GRID, *_added_or_removed(self.config, self.out))
            self.folder = open_run(self.config, self.data, self.fabric, ignore=ignored)
            self.folder.write_skipped(self.data.skipped)
            self.folder.write_leakage(self.data.leakage)
        self.needs = tasks(self.config)

    def run(self) -> list[str]:
        """Work until every task has come to an end, and return a line for each that failed."""
        while len(self.settled) < len(self.needs):
            before = len(self.settled)
            for task, needs in self.needs.items():
                if task not in self.settled and all(needed in self.settled for needed in needs):
                    self._attempt(task)
            if len(self.settled) == before:
                time.sleep(LOOK_AGAIN)
        return [f"{task}: {reason}" for task, reason in self.settled.items() if reason]

    def _attempt(self, task: Task) -> None:
        """Bring a task to its end, unless another process is at it."""
        alone = self.fabric.world_size == 1  # the processes of several devices go through the tasks together
        try:
            with self.lock(task).acquire(blocking=False) if alone else nullcontext():
                self.settled[task] = self._settle(task)
        except Timeout:
            return

    def lock(self, task: Task) -> FileLock:
        """Return the lock that whoever runs a task holds."""
        return FileLock(self.out / ".locks" / f"{task}.lock".replace(" ", "-").replace(",", ""))

    def _settle(self, task: Task) -> str | None:
        """Run a task, or look at what is there of it; return why it failed, if it did."""
        folder = task.folder(self.out)
        note, was_complete = folder / "failure.txt", RunFolder(folder).summary() is not None
        if not was_complete and note.exists() and note.stat().st_mtime >= self.started:
            return RunFolder(folder).failure()
        began = time.monotonic()
        try:
            for needed in self.needs[task]:
                if isinstance(needed, Pretraining) and (reason := self.settled[needed]):
                    raise UserError(reason)
            summary = _run(task, task.config(self.config, self.out), self.data, self.fabric)
        except UserError as error:
            if self.folder.writes:
                folder.mkdir(parents=True, exist_ok=True)
                write_text(note, f"{error}\n")
            return str(error)
        if self.folder.writes:
            note.unlink(missing_ok=True)
        if not was_complete and self.folder.writes:
            self.seconds[task.kind].append(time.monotonic() - began)
            self._say(task, summary)
        return None

    def _say(self, task: Task, summary: dict[str, Any]) -> None:
        """Say on standard error what was done, and how long the rest may take."""
        result = f": validation {_percent(summary['val_accuracy'])}" if isinstance(task, Cell) else ""
        measured = [second for seconds in self.seconds.values() for second in seconds]
        left = [
            fmean(self.seconds.get(other.kind) or measured)
            for other in self.needs
            if other != task and other not in self.settled and RunFolder(other.folder(self.out)).summary() is None
        ]
        done = len(self.needs) - len(left)
        remaining = timedelta(seconds=round(sum(left) / self.config["jobs"]))
        print(f"[{done}/{len(self.needs)}] {task}{result}; about {remaining} left", file=sys.stderr, flush=True)


def _run(task: Task, config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    match task:
        case Pretraining():
            return run_stages(config, data, fabric)
        case Probing():
            return run_probe(config, data, fabric)
        case Cell():
            summary = run_finetune(config, data, fabric)
            if task.trial is not None and fabric.global_rank == 0:  # a trial is for its accuracy alone
                Path(config["out"], "network.pt").unlink(missing_ok=True)
            return summary


def _added_or_removed(config: Config, out: Path) -> list[str]:
    """Name, as settings, the arms that only one of this call and the comparison in `out` has."""
    there = RunFolder(out).config().get("arms", {}) if (out / "config.yaml").exists() else {}
    return [f"arms.{arm}" for arm in {*there} ^ {*config["arms"]}]


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
    require_between("jobs", config["jobs"], 1)
    if config["jobs"] > 1 and config["device"]["devices"] > 1:
        raise UserError("jobs and device.devices cannot both be more than 1: give one of them.")
    tuning = tuning_of(config)
    if tuning.trials != 0 and (shared := {*tuning.seeds} & {*config["seeds"]}):
        raise UserError(f"tuning.seeds and seeds share {min(shared)}: runs must not be judged by the draws of trials.")
    for name in config["arms"]:
        arm = arm_of(name, config)
        arm.check(name, len(stage_settings(config["stack"])))
        if arm.matched and not any(_usual(other, config) for other in config["arms"]):
            raise UserError(f"arms.{name}.matched: no arm is pretrained in the usual way (init: pretrained alone).")
        if unknown := arm.stack.keys() - config["stack"].keys():
            raise UserError(f"arms.{name}.stack.{min(unknown)}: a stack has only {', '.join(config['stack'])}.")
    for _, settings in _recipes(config):
        for key, asked in (("early_stopping", settings.early_stopping), ("head", settings.head != "random")):
            if asked and not config["data"]["validation"]:
                raise UserError(f"finetuning.{key} needs validation images: give data.validation more than 0.")


def _recipes(config: Config) -> Iterator[tuple[str, Finetuning]]:
    """Go through what each arm may be fine-tuned with, and where that comes from in the configuration."""
    for name in config["arms"]:
        own, candidates = arm_of(name, config).finetuning, [{}, *tuning_of(config).candidates()]
        for tuned, recipe in zip(candidates, recipes_of(name, config, candidates), strict=True):
            where = f"arms.{name}.finetuning" if own else "tuning.space" if tuned else "finetuning"
            yield where, finetuning_settings(recipe, where)


def _check_data(config: Config, data: Dataset) -> None:
    for labels in config["labels"]:
        label_subset(data.train.labels, None if labels == "all" else labels, seed=0)
    if "all" in config["labels"] and len(data.train) in config["labels"]:
        raise UserError(f"labels={config['labels']}: {len(data.train)} are all; name them once.")
    if not len(data.validation) and (tuning_of(config).trials != 0 or config["probe"]):
        raise UserError("tuning and probes need validation images: give data.validation more than 0.")
    for where, settings in _recipes(config):
        try:
            settings.check_network(len(config["stack"]["stages"]), data.unlabelled.shape[1:])
        except UserError as error:
            raise UserError(f"{where}.{error}") from None
    network = _network(config["stack"], data)
    for name in config["arms"]:
        arm = arm_of(name, config)
        if (arm.pool or 0) > len(data.unlabelled):
            raise UserError(f"arms.{name}.pool={arm.pool}: there are {len(data.unlabelled):,} images.")
        if not arm.stack:
            continue
        try:
            own = _network(stack_of(name, config), data)
        except UserError as error:
            raise UserError(f"arms.{name}: {error}") from None
        if differing := differing_settings(network, own):
            changed = first_few([f"{key} is {after}, not {before}" for key, (before, after) in differing.items()])
            raise UserError(f"arms.{name}.stack changes the network, which all arms share: {changed}.")


def _usual(name: str, config: Config) -> bool:
    """Say whether an arm keeps all of everybody's pretraining."""
    arm = arm_of(name, config)
    return arm.init == "pretrained" and (arm.upto, arm.pool, arm.stack) == (None, None, {})


def _network(stack: Config, data: Dataset) -> Config:
    """Return what decides the network that a stack becomes."""
    built = build_stack(stack, data.unlabelled[:SAMPLE], seed=0).stack
    layers = {name: stage.layer.settings for name, stage in zip(stack["stages"], built, strict=True)}
    return {key: stack[key] for key in ("preprocessing", "normalisation")} | layers


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"
