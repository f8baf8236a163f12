"""The tasks of a comparison: pretraining, trials, runs and probes, each in a folder of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pretrain.comparison.plan import Comparison, Source
from pretrain.comparison.tuning import best_candidate
from pretrain.errors import UserError
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.runs.run_folder import RunFolder


@dataclass(frozen=True)
class PretrainingTask:
    """The pretraining that arms with the same stack and the same unlabelled images share at one seed.

    Attributes
    ----------
    seed : int
        Seed of the run.
    num_unlabelled : int, optional
        Number of unlabelled images to learn from; None for all.
    arm : str, optional
        First arm that changes the stack in this way; None for the shared stack.
    """

    seed: int
    num_unlabelled: int | None = None
    arm: str | None = None

    @property
    def kind(self) -> str:
        """The kind of task. Tasks of one kind take about equally long."""
        return f"pretraining of {self.arm}" if self.arm else "pretraining"

    def __str__(self) -> str:
        """Return the name of the task for a line of text."""
        images = f" on {self.num_unlabelled:,} images" if self.num_unlabelled is not None else ""
        return f"{self.kind}{images}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return the folder of the task within the folder of the comparison."""
        images = f"unlabelled-{self.num_unlabelled}" if self.num_unlabelled is not None else ""
        return out / "stages" / (f"of-{self.arm}" if self.arm else "") / images / f"seed-{self.seed}"

    def needs(self, comparison: Comparison) -> list["Task"]:
        """Return the tasks that must have ended before this one starts."""
        return []

    def settings(self, comparison: Comparison) -> StageRun:
        """Return the settings of the run."""
        shared = _shared(comparison)
        if self.arm:
            shared["stack"] = comparison.stack_of(self.arm)
        out = str(self.folder(Path(comparison.out)))
        return StageRun(**shared, seed=self.seed, num_unlabelled=self.num_unlabelled, out=out)


@dataclass(frozen=True)
class FinetuningTask:
    """One fine-tuning of an arm: a run that counts, or a trial.

    Attributes
    ----------
    arm : str
        Name of the arm in the comparison.
    labels : int or str
        Label budget, or "all".
    seed : int
        Seed that draws the labels, the initial weights and, for a pretrained arm, the pretraining.
    trial : int, optional
        Index of the candidate settings to try; None for a run that counts.
    compute : float
        Multiple of the recipe's steps. Trials have 1, and choose the settings for every multiple.
    """

    arm: str
    labels: Literal["all"] | int
    seed: int
    trial: int | None = None
    compute: float = 1.0

    @property
    def kind(self) -> str:
        """The kind of task. Tasks of one kind take about equally long."""
        return self.arm if self.compute == 1 else f"{self.arm} with {self.compute:g} times the steps"

    def __str__(self) -> str:
        """Return the name of the run for a line of text."""
        trial = "" if self.trial is None else f", trial {self.trial + 1}"
        steps = "" if self.compute == 1 else f", {self.compute:g} times the steps"
        return f"{self.arm}, {self.labels} labels{steps}, seed {self.seed}{trial}"

    def folder(self, out: Path) -> Path:
        """Return the folder of the task within the folder of the comparison."""
        kind = out / "runs" if self.trial is None else out / "trials" / f"trial-{self.trial + 1}"
        steps = "" if self.compute == 1 else f"-compute-{self.compute:g}"
        return kind / self.arm / f"labels-{self.labels}{steps}" / f"seed-{self.seed}"

    def needs(self, comparison: Comparison) -> list["Task"]:
        """Return the tasks that must have ended before this one starts."""
        pretraining = self.pretraining(comparison)
        trials = self.trials(comparison) if self.trial is None else []
        return [*([pretraining] if pretraining else []), *trials]

    def pretraining(self, comparison: Comparison) -> PretrainingTask | None:
        """Return the pretraining that the run starts from, or whose compute a compute-matched run is given."""
        arm = comparison.arms[self.arm]
        seed = comparison.seed_of("pretraining", self.seed) if self.trial is None else self.seed
        if arm.pretrained:
            alike = (name for name, each in comparison.arms.items() if each.stack == arm.stack)
            return PretrainingTask(seed, arm.num_unlabelled, next(alike) if arm.stack else None)
        return PretrainingTask(seed) if arm.compute_matched else None

    def trials(self, comparison: Comparison) -> list["FinetuningTask"]:
        """Return the trials that choose the settings of the run; none where every candidate gives the same result."""
        trials = range(len(comparison.recipes(self.arm)) if comparison.is_tuned(self.arm) else 0)
        seeds = comparison.tuning.seeds
        return [FinetuningTask(self.arm, self.labels, seed, trial) for trial in trials for seed in seeds]

    def settings(self, comparison: Comparison) -> FinetuningRun:
        """Return the settings of the run: the shared ones, changed by tuning and by the arm.

        Raises
        ------
        UserError
            When every trial failed.
        """
        arm, out = comparison.arms[self.arm], Path(comparison.out)
        chosen = self.trial if self.trial is not None else self.winner(comparison)
        pretraining = self.pretraining(comparison)
        stages = pretraining.folder(out) if pretraining else None
        return FinetuningRun(
            **{**_shared(comparison), "stack": comparison.stack_of(self.arm)},
            arm=self.arm,
            labels=self.labels,
            seed=self.seed,
            label_seed=self._held("labels", comparison),
            weight_seed=self._held("weights", comparison),
            order_seed=self._held("order", comparison),
            out=str(self.folder(out)),
            recipe=comparison.recipes(self.arm)[chosen].stretched(self.compute),
            init=arm.init,
            stages=str(stages) if arm.pretrained else None,
            upto=arm.upto,
            extra_flops=_flops_of(stages) if stages and arm.compute_matched else 0,
            test=self.trial is None,
        )

    def _held(self, source: Source, comparison: Comparison) -> int | None:
        """Return the seed of a draw that all runs that count share; None for the own seed, which trials always have."""
        return comparison.seeds_in_use[0] if source in comparison.hold and self.trial is None else None

    def winner(self, comparison: Comparison) -> int:
        """Return the index of the recipe that was best in the trials, by validation accuracy."""
        accuracies: dict[int, list[float | None]] = {}
        for task in self.trials(comparison):
            assert task.trial is not None
            summary = RunFolder(task.folder(Path(comparison.out))).accepted()
            accuracies.setdefault(task.trial, []).append(summary["val_accuracy"] if summary else None)
        return best_candidate(accuracies) if accuracies else 0


@dataclass(frozen=True)
class ProbingTask:
    """Linear probes at each depth of the layers of one seed.

    Attributes
    ----------
    init : {"scratch", "pretrained"}
        Where the layers start.
    labels : int or str
        Label budget, or "all".
    seed : int
        Seed of the run.
    """

    init: Literal["scratch", "pretrained"]
    labels: Literal["all"] | int
    seed: int
    kind = "probe"

    def __str__(self) -> str:
        """Return the name of the task for a line of text."""
        return f"probe of {self.init} layers, {self.labels} labels, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return the folder of the task within the folder of the comparison."""
        return out / "probes" / self.init / f"labels-{self.labels}" / f"seed-{self.seed}"

    def needs(self, comparison: Comparison) -> list["Task"]:
        """Return the tasks that must have ended before this one starts."""
        return [self._pretraining(comparison)] if self.init == "pretrained" else []

    def _pretraining(self, comparison: Comparison) -> PretrainingTask:
        return PretrainingTask(comparison.seed_of("pretraining", self.seed))

    def settings(self, comparison: Comparison) -> ProbeRun:
        """Return the settings of the run."""
        out = Path(comparison.out)
        stages = str(self._pretraining(comparison).folder(out)) if self.init == "pretrained" else None
        own = {"init": self.init, "stages": stages, "labels": self.labels, "seed": self.seed}
        own |= {
            f"{name[:-1]}_seed": comparison.seeds_in_use[0] for name in ("labels", "weights") if name in comparison.hold
        }
        return ProbeRun(**_shared(comparison), **own, out=str(self.folder(out)))  # type: ignore[arg-type]


Task = PretrainingTask | FinetuningTask | ProbingTask


def runs_that_count(comparison: Comparison) -> Iterator[FinetuningTask]:
    """Yield the runs that count, seed by seed, so that an interrupted comparison has complete seeds."""
    for seed in comparison.seeds_in_use:
        for labels in comparison.labels:
            for arm in comparison.arms:
                for multiple in comparison.multiples(arm):
                    yield FinetuningTask(arm, labels, seed, compute=multiple)


def tasks(comparison: Comparison) -> dict[Task, list[Task]]:
    """Return every task of a comparison with the tasks that it needs, which come before it."""
    needs: dict[Task, list[Task]] = {}

    def add(task: Task) -> None:
        if task not in needs:
            needed = task.needs(comparison)
            for each in needed:
                add(each)
            needs[task] = needed

    for run in runs_that_count(comparison):
        add(run)
        if comparison.probe:
            for init in ("scratch", "pretrained"):
                add(ProbingTask(init, run.labels, run.seed))
    return needs


def _shared(comparison: Comparison) -> dict[str, Any]:
    """Return the settings that every task takes from the comparison."""
    return {name: getattr(comparison, name) for name in ("data", "stack", "device", "overwrite")}


def _flops_of(stages: Path) -> int:
    summary = RunFolder(stages).summary()
    if summary is None:
        raise UserError(f"{stages} is not complete, so its compute cannot be matched.")
    return sum(summary["stage_flops"])
