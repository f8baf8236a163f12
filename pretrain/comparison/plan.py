"""The plan of a comparison: arms, label budgets, seeds and tuning, checked once where the settings come in."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pretrain.comparison.arms import Arm, standard_arms
from pretrain.comparison.slurm_settings import Slurm
from pretrain.comparison.tuning import Tuning, decisive
from pretrain.data.dataset_settings import DataSource, DigitsData
from pretrain.runs.device import Crowd, Device
from pretrain.runs.setting_types import (
    ANY_WITHOUT_REPEATS,
    NO_REPEATS,
    Count,
    FileName,
    FromZero,
    In,
    OnlyWith,
    PlainName,
    value_text,
)
from pretrain.runs.typed_settings import (
    Config,
    Resuming,
    Settings,
    as_config,
    at,
    gathered,
    problems_within,
    setting,
    typed,
)
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Recipe

if TYPE_CHECKING:
    from pretrain.comparison.sequential_looks import Looks

Budgets = Annotated[list[Literal["all"] | Count], NO_REPEATS]
Source = Literal["labels", "weights", "order", "pretraining"]
Multiple = Annotated[float, In(gt=0, le=1e6)]
Points = Annotated[float, In(gt=0, le=100)]
# The value of `seeds` that leaves their number to the results.
AUTO = "auto"
FIGURES = tuple(
    f"figures/{name}.{suffix}"
    for name in (
        *("accuracy-*", "classes", "compute-*", "differences-*", "gallery-*", "labels-saved", "layers-kept"),
        *("probes-*", "time-*", "unlabelled-images"),
    )
    for suffix in ("png", "svg")
)


@dataclass(frozen=True, kw_only=True)
class Comparison(Settings):
    """A comparison of arms over label budgets and seeds, on one data set and with one network.

    Attributes
    ----------
    out : str
        Folder of the comparison.
    stack : StackSettings
        Stack of stages that is pretrained.
    data : DataSource
        Source of the images.
    recipe : Recipe
        Settings of fine-tuning that the arms share.
    arms : dict of str to Arm
        Arms by name.
    baseline : str
        Name of the arm that the others are compared with.
    labels : sequence of int or "all"
        Label budgets.
    seeds : sequence of int or "auto"
        Seeds of the runs. Each draws its own labels, initial weights and pretraining. A claim needs five or more. With
        "auto" there are 5, then 10, 20, ... until the difference is known as well as `half_width` asks.
    half_width : float
        Points that the 95% interval of the main arm's difference may reach to each side, at every label budget.
    most_seeds : int
        Number of seeds after which it ends in any case. It decides how verdicts are corrected, so it cannot change.
    detect : float, optional
        Difference in points for which the report says how many seeds would detect it; None for the one that it sees.
    hold : sequence of {"labels", "weights", "order", "pretraining"}
        Draws that all seeds share: those of the first seed. Intervals do not cover what is held.
    compute : sequence of float
        Multiples of the recipe's steps, with 1 among them. Each is a run of its own, with its own schedule.
    shared_by : int
        Number of trainings that share the compute of one pretraining, where it is not charged in full.
    tuning : Tuning
        Search for settings that every arm gets.
    probe : bool
        Whether to fit linear probes at each depth as well, to pretrained and to random layers.
    jobs : int
        Number of processes that share the work.
    slurm : Slurm
        Workers on Slurm, which share the work instead.
    device : Device
        Device that computes.
    overwrite : bool
        Whether to delete a comparison with other settings that is in the folder.
    dry_run : bool
        Whether to say what would be run and what is there already, with an estimate of the time, and end.

    Raises
    ------
    UserError
        When a setting contradicts another, or would make every run fail.
    """

    products: ClassVar[tuple[str, ...]] = (
        *("results.csv", "results.json", "trials.csv", "probes.csv", "gallery.safetensors", "report.html", "report.md"),
        *FIGURES,
    )
    look: ClassVar[int] = 0  # no setting: the folder decides it, see `pretrain.comparison.stopping_rule`

    out: FileName = setting(resuming=Resuming.FREE)
    stack: StackSettings
    data: DataSource = setting(factory=DigitsData)
    recipe: Recipe = setting(factory=Recipe)
    arms: dict[PlainName, Arm] = setting(factory=standard_arms)
    baseline: str = setting("scratch", resuming=Resuming.GROWS)
    labels: Annotated[list[Literal["all"] | Count], NO_REPEATS] = setting(
        factory=lambda: [100], resuming=Resuming.GROWS
    )
    seeds: Annotated[list[FromZero], NO_REPEATS] | Literal["auto"] = setting(
        factory=lambda: [0, 1, 2, 3, 4], resuming=Resuming.GROWS
    )
    half_width: Annotated[Points, OnlyWith("seeds", AUTO)] = setting(1.0, resuming=Resuming.GROWS)
    most_seeds: Annotated[int, In(ge=5, le=1000), OnlyWith("seeds", AUTO)] = 20
    detect: Points | None = setting(None, resuming=Resuming.FREE)
    hold: Annotated[list[Source], ANY_WITHOUT_REPEATS] = setting(factory=list)
    compute: Annotated[list[Multiple], NO_REPEATS] = setting(factory=lambda: [1.0], resuming=Resuming.GROWS)
    shared_by: Count = setting(10, resuming=Resuming.FREE)
    tuning: Tuning = setting(factory=Tuning)
    probe: bool = setting(False, resuming=Resuming.GROWS)
    jobs: Crowd = setting(1, resuming=Resuming.FREE)
    slurm: Slurm = setting(factory=Slurm)
    device: Device = setting(factory=Device)
    overwrite: bool = setting(False, resuming=Resuming.FREE)
    dry_run: bool = setting(False, resuming=Resuming.FREE)

    def contradictions(self) -> Iterator[str]:
        """Yield a line for each problem of the stacks, the arms and their recipes, and of what must differ."""
        yield from problems_within("", self.data.refuse_output, "out", self.out)
        yield from problems_within("data", self.data.require_labels)
        yield from problems_within("stack", self.stack.layer_rows, self.data.shape, 2)
        if not self.arms:
            yield "arms={}: give the settings of each arm under its name."
        elif self.baseline not in self.arms:
            yield f"baseline={self.baseline} is not known; choose one of {', '.join(self.arms)}."
        if self.jobs > 1 and self.device.devices > 1:
            yield "jobs and device.devices cannot both be more than 1: give one of them."
        if self.slurm.workers and max(self.jobs, self.device.devices) > 1:
            yield "slurm.workers is instead of jobs and device.devices: leave these at 1."
        possible = range(self.most_seeds) if self.seeds == AUTO else self.seeds
        if self.tuning.trials != 0 and (shared := {*self.tuning.seeds} & {*possible}):
            yield f"tuning.seeds and seeds share {min(shared)}: runs must not share the draws of trials."
        # With all labels, every seed has the same images.
        if {"labels", "weights", "order"} <= {*self.hold, *(["labels"] if "all" in self.labels else [])}:
            yield f"hold={value_text(self.hold)}: every seed would give the same run from scratch; leave out one draw."
        if 1 not in self.compute:
            yield f"compute={value_text(self.compute)}: verdicts rest on the recipe's own steps, so give 1 as well."
        for name in self.arms:
            yield from self._contradictions_of(name)
        recipes = problems_within("", lambda: self._recipes)
        yield from recipes or self._without_validation()
        if not recipes:
            yield from self._multiples_without_effect()
            object.__setattr__(self, "arms", {name: self._resolved(name) for name in self.arms})
            if self.seeds == AUTO and self.baseline in self.arms and self.main_arm is None:
                yield "seeds=auto needs a pretrained arm and a baseline that is not: give these, or a list of seeds."

    def _multiples_without_effect(self) -> Iterator[str]:
        """Yield a line for each multiple that no arm can have, or that gives as many steps as another."""
        if len(self.compute) > 1 and all(self.multiples(name) == [1.0] for name in self.arms):
            yield f"compute={value_text(self.compute)}: no arm has steps to multiply; leave it at [1]."
        varied = [name for name in self.arms if len(self.multiples(name)) > 1]
        recipes = [recipe for name in varied for recipe in self.recipes(name) if recipe.steps]
        for multiple in self.compute:
            lines = [line for r in recipes for line in problems_within("", r.stretched, multiple)]
            yield from dict.fromkeys(f"compute={multiple:g}: runs would have {line}" for line in lines)
        for fewer, more in pairwise(sorted(self.compute)):
            if alike := [r.steps for r in recipes if round(fewer * r.steps) == round(more * r.steps) > 0]:
                yield f"compute={fewer:g} and {more:g} are equally many steps for steps={alike[0]}; leave one out."

    def _contradictions_of(self, name: str) -> Iterator[str]:
        """Yield a line for each problem of an arm with this stack and these arms."""
        arm, where = self.arms[name], f"arms.{name}"
        if arm.upto is not None and arm.upto > len(self.stack.stages):
            yield f"{where}.upto={arm.upto}: the stack has {len(self.stack.stages)} stages."
        if arm.stack:
            yield from problems_within(
                f"{where}.stack", lambda: self.stack.changed(arm.stack).layer_rows(self.data.shape, classes=2)
            )
        if arm.compute_matched and not any(each.pretrained and not each.variant for each in self.arms.values()):
            yield f"{where}.compute_matched: no arm is pretrained in the usual way (init: pretrained alone)."

    def _resolved(self, name: str) -> Arm:
        """Return a copy of an arm that knows whether it is frozen."""
        arm = replace(self.arms[name])
        object.__setattr__(arm, "frozen", self._recipes[name][0].freeze)
        return arm

    def _without_validation(self) -> Iterator[str]:
        """Yield a line for each choice by validation images where there are none."""
        recipes = [] if self.data.validation else [recipe for _, recipe in self.recipes_by_setting()]
        if any(recipe.early_stopping for recipe in recipes):
            yield "recipe.early_stopping needs validation images: give data.validation more than 0."
        if any(recipe.head != "random" for recipe in recipes):
            yield "recipe.head needs validation images: give data.validation more than 0."

    def recipes(self, arm: str) -> list[Recipe]:
        """Return the recipes that an arm may be fine-tuned with: one for each candidate of tuning, or a single one.

        Raises
        ------
        UserError
            When one of them is no valid recipe. The message names the setting.
        """
        return self._recipes[arm][1:] or self._recipes[arm]

    def recipes_by_setting(self) -> list[tuple[str, Recipe]]:
        """Return every recipe that an arm may be fine-tuned with, each with the setting that it comes from."""
        where = ["recipe", *["tuning.space" for _ in self.tuning.candidates()]]
        return [
            (f"arms.{name}.recipe" if self.arms[name].recipe else at, recipe)
            for name, recipes in self._recipes.items()
            for at, recipe in zip(where, recipes, strict=True)
        ]

    @cached_property
    def _recipes(self) -> dict[str, list[Recipe]]:
        """The recipes of each arm: first the one without tuning, then one for each candidate of tuning."""
        recipes: dict[str, list[Recipe]] = {}
        with gathered() as problems:
            for name, arm in self.arms.items():
                recipes[name] = []
                for tried in [{}, *self.tuning.candidates()]:
                    where = f"arms.{name}.recipe" if arm.recipe else "tuning.space" if tried else "recipe"
                    with problems.noted():
                        recipes[name].append(self._recipe({**tried, **arm.recipe}, where))
            # Arms share settings, and so their problems.
            problems[:] = dict.fromkeys(problems)
        return recipes

    def _recipe(self, changes: Config, where: str) -> Recipe:
        """Return the shared recipe with changes; it is checked on the network."""
        recipe = typed(Recipe, {**as_config(self.recipe), **changes}, where)
        with at(where):
            recipe.check_network(len(self.stack.stages), self.data.shape)
        return recipe

    def is_tuned(self, arm: str) -> bool:
        """Return whether the recipes that an arm may try differ in a setting that decides the result."""
        deciding = [decisive(recipe) for recipe in self.recipes(arm)]
        return any(each != deciding[0] for each in deciding)

    def multiples(self, arm: str) -> list[float]:
        """Return the multiples of its recipe's steps that an arm runs with.

        An arm without steps has one cost, and so has a compute-matched arm, whose compute is given.
        """
        varies = any(recipe.steps for recipe in self.recipes(arm)) and not self.arms[arm].compute_matched
        return self.compute if varies else [1.0]

    def seed_of(self, source: Source, seed: int) -> int:
        """Return the seed that draws a source of variation in the runs of a seed: its own, or the first if held."""
        return self.seeds_in_use[0] if source in self.hold else seed

    @property
    def looks(self) -> "Looks":
        """The looks at the results that verdicts allow for: a single one unless the number of seeds is "auto"."""
        # This import is slow, and refusing a wrong setting does not need it.
        from pretrain.comparison.sequential_looks import ONE_LOOK, doubling_looks

        return doubling_looks(self.most_seeds) if self.seeds == AUTO else ONE_LOOK

    @property
    def seeds_in_use(self) -> list[int]:
        """The seeds of the runs: those given or, with "auto", those of the look that the comparison has come to."""
        return [*range(self.looks.seeds[self.look])] if isinstance(self.seeds, str) else self.seeds

    @property
    def may_go_on(self) -> bool:
        """Whether there is a look after this one."""
        return self.look + 1 < len(self.looks.seeds)

    def at_look(self, look: int) -> "Comparison":
        """Return the comparison as it is at one of its looks, counted from 0; a new one is at its first."""
        copy = replace(self)
        object.__setattr__(copy, "look", look)
        return copy

    def stack_of(self, arm: str) -> StackSettings:
        """Return the stack of an arm: the shared one, with the changes of the arm."""
        return self.stack.changed(self.arms[arm].stack)

    @property
    def main_arm(self) -> str | None:
        """The arm that the verdict is about: the pretrained arm that is most like the baseline.

        The first choice has the comparison's own pretraining and is frozen exactly when the baseline is. Arms that
        fine-tune their layers are never compared with a frozen baseline, since the difference would show more than
        pretraining. There is no main arm where the baseline is pretrained itself.
        """
        if self.arms[self.baseline].pretrained:
            return None
        fixed = self.arms[self.baseline].frozen
        pretrained = [name for name, arm in self.arms.items() if arm.pretrained and (arm.frozen or not fixed)]
        whole = [name for name in pretrained if not self.arms[name].variant and self.arms[name].frozen == fixed]
        return next(iter([*whole, *pretrained]), None)

    @property
    def compute_matched_arm(self) -> str | None:
        """The compute-matched arm from scratch, if there is one other than the baseline."""
        matched = (name for name, arm in self.arms.items() if arm.compute_matched and name != self.baseline)
        return next(matched, None)

    def with_threads(self, threads: int) -> "Comparison":
        """Return the comparison with this number of threads for each process."""
        return replace(self, device=replace(self.device, threads=threads))
