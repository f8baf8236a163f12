"""What a comparison consists of: pretraining, trials, runs and probes, each in a folder of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pretrain.config import typed
from pretrain.errors import UserError, choose, require_between
from pretrain.runs import Config, RunFolder
from pretrain.tuning import Tuning, best_candidate, decisive

SHARED = ("data", "stack", "device", "overwrite")  # settings that every task takes over from the comparison


@dataclass
class Arm:
    """What differs between arms.

    Attributes
    ----------
    init : {"scratch", "pretrained"}
        Where the layers start.
    finetuning : dict
        Settings of its own, which tuning leaves alone.
    upto : int, optional
        Of a pretrained arm: keep the first so many layers, and begin the others from scratch.
    pool : int, optional
        Of a pretrained arm: pretrain on so many of the unlabelled images.
    stack : dict
        Of a pretrained arm: settings of the stack that its pretraining changes. The network must stay the same.
    matched : bool
        Of an arm from scratch: train for longer, with the compute that pretraining takes.
    """

    init: str = "scratch"
    finetuning: dict[str, Any] = field(default_factory=dict)
    upto: int | None = None
    pool: int | None = None
    stack: dict[str, Any] = field(default_factory=dict)
    matched: bool = False

    def check(self, name: str, stages: int) -> None:
        """Raise a `UserError` when its settings contradict each other, for a stack of so many stages."""
        choose(f"arms.{name}.init", self.init, ("scratch", "pretrained"))
        pretrained = self.init == "pretrained"
        if not pretrained and (
            given := [key for key in ("upto", "pool", "stack") if getattr(self, key) not in (None, {})]
        ):
            raise UserError(f"arms.{name}.{given[0]} is of pretrained arms: give init: pretrained with it.")
        if pretrained and self.matched:
            raise UserError(f"arms.{name}.matched is of arms from scratch: a pretrained one has had its pretraining.")
        if self.upto is not None:
            require_between(f"arms.{name}.upto", self.upto, 1, stages)
        if self.pool is not None:
            require_between(f"arms.{name}.pool", self.pool, 1)


def arm_of(name: str, config: Config) -> Arm:
    """Return an arm of a comparison, its settings checked for their types.

    Raises
    ------
    UserError
        When a setting cannot differ between arms, or has the wrong type.
    """
    given = config["arms"][name] or {}
    if not isinstance(given, dict):
        raise UserError(f"arms.{name}={given}: give what it changes, such as {{init: pretrained}}.")
    known = [each.name for each in fields(Arm)]
    if unknown := {*map(str, given)} - {*known}:
        raise UserError(f"arms.{name}.{min(unknown)} cannot differ between arms; only {', '.join(known)} can.")
    return typed(Arm, {key: value for key, value in given.items() if value is not None}, f"arms.{name}")


def stack_of(arm: str, config: Config) -> Config:
    """Return the stack of an arm of a comparison: everybody's, with what the arm changes."""
    return _merged(config["stack"], arm_of(arm, config).stack)


def _merged(settings: Config, changes: Config) -> Config:
    """Return settings with changes, at any depth; a stage of another kind replaces the one that was there."""
    if "_target_" in changes and changes["_target_"] != settings.get("_target_"):
        return changes
    nested = {key for key in settings.keys() & changes.keys() if isinstance(changes[key], dict)}
    nested = {key for key in nested if isinstance(settings[key], dict)}
    return {**settings, **changes, **{key: _merged(settings[key], changes[key]) for key in nested}}


@dataclass(frozen=True)
class Pretraining:
    """Training of the stages that the pretrained arms of a seed share, those alike that change the stack alike.

    Attributes
    ----------
    seed : int
        Of the run.
    pool : int, optional
        Unlabelled images it learns from; None for all.
    arm : str, optional
        Whose stack it trains: the first arm's that changes the stack in this way; None for everybody's.
    """

    seed: int
    pool: int | None = None
    arm: str | None = None

    @property
    def kind(self) -> str:
        """Tasks of a kind take about as long as each other."""
        return f"pretraining of {self.arm}" if self.arm else "pretraining"

    def __str__(self) -> str:
        """Name the task, for a line of text."""
        return f"{self.kind}{f' on {self.pool:,} images' if self.pool is not None else ''}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return its folder within that of the comparison."""
        whose = f"of-{self.arm}" if self.arm else ""
        return out / "stages" / whose / (f"pool-{self.pool}" if self.pool is not None else "") / f"seed-{self.seed}"

    def needs(self, config: Config) -> list["Task"]:
        """Return the tasks that must have come to an end before."""
        return []

    def config(self, config: Config, out: Path) -> Config:
        """Return its settings, as of pretrain.stage."""
        shared = {key: config[key] for key in SHARED}
        own = {"stack": stack_of(self.arm, config)} if self.arm else {}
        return {**shared, **own, "seed": self.seed, "pool": self.pool, "out": str(self.folder(out))}


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
        """Return the trials by which the settings of a run are chosen: none where all of them come to the same."""
        tuning = tuning_of(config)
        candidates = tuning.candidates()
        trials = range(len(candidates) if is_tuned(self.arm, config, candidates) else 0)
        return [Cell(self.arm, self.labels, seed, trial) for trial in trials for seed in tuning.seeds]

    def config(self, config: Config, out: Path) -> Config:
        """Return its settings, as of pretrain.finetune: what all arms share, what was tuned, what this arm changes.

        Raises
        ------
        UserError
            When every trial failed.
        """
        arm = arm_of(self.arm, config)
        chosen = self.trial if self.trial is not None else self.winner(config, out)
        pretraining = pretraining_of(self.arm, self.seed, config)
        stages = pretraining.folder(out) if pretraining else None
        return {
            "arm": self.arm,
            "labels": self.labels,
            "seed": self.seed,
            "out": str(self.folder(out)),
            **{key: config[key] for key in SHARED},
            "stack": stack_of(self.arm, config),
            "finetuning": recipes_of(self.arm, config, tuning_of(config).candidates() or [{}])[chosen],
            "init": arm.init,
            "stages": str(stages) if arm.init == "pretrained" else None,
            "upto": arm.upto,
            "extra_flops": _flops_of(stages) if stages and arm.matched else 0,
            "test": self.trial is None,
        }

    def winner(self, config: Config, out: Path) -> int:
        """Return which of its recipes this arm runs with at this budget, by the trials' validation accuracy."""
        accuracies: dict[int, list[float | None]] = {}
        for trial in self.trials(config):
            assert isinstance(trial, Cell)
            assert trial.trial is not None
            summary = RunFolder(trial.folder(out)).accepted()
            accuracies.setdefault(trial.trial, []).append(summary["val_accuracy"] if summary else None)
        return best_candidate(accuracies) if accuracies else 0


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


def tasks(config: Config) -> dict[Task, list[Task]]:
    """Return all that there is to do, each task after those that it needs, and which these are."""
    needs: dict[Task, list[Task]] = {}

    def add(task: Task) -> None:
        if task not in needs:
            needed = task.needs(config)
            for each in needed:
                add(each)
            needs[task] = needed

    for cell in cells(config):
        add(cell)
        if config["probe"]:
            for init in ("scratch", "pretrained"):
                add(Probing(init, cell.labels, cell.seed))
    return needs


def tuning_of(config: Config) -> Tuning:
    """Return how a comparison searches settings."""
    return typed(Tuning, config["tuning"], "tuning")


def recipes_of(arm: str, config: Config, candidates: Sequence[Config]) -> list[Config]:
    """Return what an arm may be fine-tuned with: what all share, each of the candidates, and what the arm changes."""
    shared, own = config["finetuning"], arm_of(arm, config).finetuning
    return [{**shared, **tried, **own} for tried in candidates]


def is_tuned(arm: str, config: Config, candidates: Sequence[Config]) -> bool:
    """Say whether there is anything to choose for an arm: whether its recipes differ in what decides their result."""
    recipes = [decisive(recipe) for recipe in recipes_of(arm, config, candidates)]
    return any(recipe != recipes[0] for recipe in recipes)


def pretraining_of(arm: str, seed: int, config: Config) -> Pretraining | None:
    """Return the pretraining that an arm starts from or, trained as long, must do without."""
    settings = arm_of(arm, config)
    if settings.init == "pretrained":
        alike = (each for each in config["arms"] if arm_of(each, config).stack == settings.stack)
        return Pretraining(seed, settings.pool, next(alike) if settings.stack else None)
    return Pretraining(seed) if settings.matched else None


def _flops_of(stages: Path) -> int:
    summary = RunFolder(stages).summary()
    if summary is None:
        raise UserError(f"{stages} is not complete, so that there is no compute to match.")
    return sum(summary["stage_flops"])
