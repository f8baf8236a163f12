"""What a comparison consists of: pretraining, trials, runs and probes, each in a folder of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretrain.config import typed
from pretrain.errors import UserError
from pretrain.runs import Config, RunFolder
from pretrain.tuning import Tuning, best_candidate

SHARED = ("data", "stack", "device", "overwrite")  # settings that every task takes over from the comparison
ARM_SETTINGS = ("init", "finetuning", "upto", "pool", "matched")  # what may differ between arms


@dataclass(frozen=True)
class Pretraining:
    """Training of the stages that the pretrained arms of a seed share.

    Attributes
    ----------
    seed : int
        Of the run.
    pool : int, optional
        Unlabelled images it learns from; None for all.
    """

    seed: int
    pool: int | None = None
    kind = "pretraining"

    def __str__(self) -> str:
        """Name the task, for a line of text."""
        return f"pretraining{f' on {self.pool:,} images' if self.pool else ''}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return its folder within that of the comparison."""
        return out / "stages" / (f"pool-{self.pool}" if self.pool else "") / f"seed-{self.seed}"

    def needs(self, config: Config) -> list["Task"]:
        """Return the tasks that must have come to an end before."""
        return []

    def config(self, config: Config, out: Path) -> Config:
        """Return its settings, as of pretrain.stage."""
        shared = {key: config[key] for key in SHARED}
        return {**shared, "seed": self.seed, "pool": self.pool, "out": str(self.folder(out))}


@dataclass(frozen=True)
class Cell:
    """One run of an arm, or a trial.

    Attributes
    ----------
    arm : str
        Its name in the configuration.
    labels : int or str
        Label budget, or "all".
    seed : int
        Draws the labels, the initial weights and, for a pretrained arm, the pretraining.
    trial : int, optional
        Which of the candidate settings it tries; None for a run that counts.
    """

    arm: str
    labels: int | str
    seed: int
    trial: int | None = None

    @property
    def kind(self) -> str:
        """Tasks of a kind take about as long as each other."""
        return self.arm

    def __str__(self) -> str:
        """Name the run, for a line of text."""
        trial = "" if self.trial is None else f", trial {self.trial + 1}"
        return f"{self.arm}, {self.labels} labels, seed {self.seed}{trial}"

    def folder(self, out: Path) -> Path:
        """Return its folder within that of the comparison."""
        kind = out / "runs" if self.trial is None else out / "trials" / f"trial-{self.trial + 1}"
        return kind / self.arm / f"labels-{self.labels}" / f"seed-{self.seed}"

    def needs(self, config: Config) -> list["Task"]:
        """Return the tasks that must have come to an end before."""
        pretraining = pretraining_of(self.arm, self.seed, config)
        return [*([pretraining] if pretraining else []), *([] if self.trial is not None else self.trials(config))]

    def trials(self, config: Config) -> list["Task"]:
        """Return the trials by which the settings of a run are chosen."""
        tuning = tuning_of(config)
        count = range(len(tuning.candidates()) if tuning.trials != 0 else 0)
        return [Cell(self.arm, self.labels, seed, trial) for trial in count for seed in tuning.seeds]

    def config(self, config: Config, out: Path) -> Config:
        """Return its settings, as of pretrain.finetune: what all arms share, what was tuned, what this arm changes.

        Raises
        ------
        UserError
            When every trial failed.
        """
        arm = config["arms"][self.arm] or {}
        chosen = self.trial if self.trial is not None else self.winner(config, out)
        tuned = {} if chosen is None else tuning_of(config).candidates()[chosen]
        init = arm.get("init", "scratch")
        pretraining = pretraining_of(self.arm, self.seed, config)
        stages = pretraining.folder(out) if pretraining else None
        return {
            "arm": self.arm,
            "labels": self.labels,
            "seed": self.seed,
            "out": str(self.folder(out)),
            **{key: config[key] for key in SHARED},
            "finetuning": {**config["finetuning"], **tuned, **(arm.get("finetuning") or {})},
            "init": init,
            "stages": str(stages) if init == "pretrained" else None,
            "upto": arm.get("upto"),
            "extra_flops": _flops_of(stages) if stages and arm.get("matched") else 0,
            "test": self.trial is None,
        }

    def winner(self, config: Config, out: Path) -> int | None:
        """Return the candidate that this arm runs with at this budget, by the trials' validation accuracy."""
        accuracies: dict[int, list[float | None]] = {}
        for trial in self.trials(config):
            assert isinstance(trial, Cell)
            assert trial.trial is not None
            summary = RunFolder(trial.folder(out)).summary()
            accuracies.setdefault(trial.trial, []).append(summary["val_accuracy"] if summary else None)
        return best_candidate(accuracies) if accuracies else None


@dataclass(frozen=True)
class Probing:
    """Linear probes of each depth of a seed's layers.

    Attributes
    ----------
    init : {"scratch", "pretrained"}
        Of the layers.
    labels : int or str
        Label budget, or "all".
    seed : int
        Of the run.
    """

    init: str
    labels: int | str
    seed: int
    kind = "probe"

    def __str__(self) -> str:
        """Name the task, for a line of text."""
        return f"probe of {self.init} layers, {self.labels} labels, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return its folder within that of the comparison."""
        return out / "probes" / self.init / f"labels-{self.labels}" / f"seed-{self.seed}"

    def needs(self, config: Config) -> list["Task"]:
        """Return the tasks that must have come to an end before."""
        return [Pretraining(self.seed)] if self.init == "pretrained" else []

    def config(self, config: Config, out: Path) -> Config:
        """Return its settings, as of pretrain.probe."""
        stages = str(Pretraining(self.seed).folder(out)) if self.init == "pretrained" else None
        own = {"init": self.init, "stages": stages, "labels": self.labels, "seed": self.seed}
        return {**{key: config[key] for key in SHARED}, **own, "out": str(self.folder(out))}


Task = Pretraining | Cell | Probing


def cells(config: Config) -> Iterator[Cell]:
    """Go through the runs that count, seed by seed, so that an interrupted comparison has whole seeds."""
    for seed in config["seeds"]:
        for labels in config["labels"]:
            for arm in config["arms"]:
                yield Cell(arm, labels, seed)


def tasks(config: Config) -> list[Task]:
    """Return all that there is to do, what others need before them."""
    ordered: dict[Task, None] = {}  # a set that keeps the order

    def add(task: Task) -> None:
        if task not in ordered:
            for needed in task.needs(config):
                add(needed)
            ordered[task] = None

    for cell in cells(config):
        add(cell)
        if config["probe"]:
            for init in ("scratch", "pretrained"):
                add(Probing(init, cell.labels, cell.seed))
    return list(ordered)


def tuning_of(config: Config) -> Tuning:
    """Return how a comparison searches settings."""
    return typed(Tuning, config["tuning"], "tuning")


def pretraining_of(arm: str, seed: int, config: Config) -> Pretraining | None:
    """Return the pretraining that an arm starts from or, trained as long, must do without."""
    changed = config["arms"][arm] or {}
    if changed.get("init") == "pretrained":
        return Pretraining(seed, changed.get("pool"))
    return Pretraining(seed) if changed.get("matched") else None


def _flops_of(stages: Path) -> int:
    summary = RunFolder(stages).summary()
    if summary is None:
        raise UserError(f"{stages} is not complete, so that there is no compute to match.")
    return sum(summary["stage_flops"])
