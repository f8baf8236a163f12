"""What a comparison consists of: pretraining, trials, runs and probes, each in a folder of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.comparison.plan import arm_of, stack_of
from pretrain.comparison.tuning import Tuning, best_candidate, decisive
from pretrain.errors import UserError
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.settings import Config, typed

SHARED = ("data", "stack", "device", "overwrite")  # settings that every task takes over from the comparison


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
            "recipe": recipes_of(self.arm, config, tuning_of(config).candidates() or [{}])[chosen],
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
    shared, own = config["recipe"], arm_of(arm, config).recipe
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
