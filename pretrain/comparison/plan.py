"""A comparison: its arms, label budgets, seeds and tuning, checked once where they come in."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from pretrain.comparison.tuning import Tuning, decisive
from pretrain.data.sources import DataSource, DigitsData
from pretrain.errors import UserError, choose, require_between
from pretrain.runs.device import Device
from pretrain.runs.settings import Config, Resuming, as_config, setting, typed
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Recipe

FIGURES = tuple(
    f"figures/{name}.{suffix}"
    for name in (
        *("accuracy-*", "differences-*", "labels-saved", "layers-kept", "probes-*", "time-*", "unlabelled-images"),
    )
    for suffix in ("png", "svg")
)


@dataclass(frozen=True)
class Arm:
    """One way to train the network. Arms share everything but what they name here.

    Attributes
    ----------
    init : {"scratch", "pretrained"}
        Where the layers start.
    recipe : dict
        Settings of the recipe that this arm has of its own. Tuning leaves them alone.
    upto : int, optional
        For a pretrained arm: keep the first so many layers, and begin the others from scratch.
    num_unlabelled : int, optional
        For a pretrained arm: pretrain on so many of the unlabelled images.
    stack : dict
        For a pretrained arm: settings of the stack that its pretraining changes. The network must stay the same.
    compute_matched : bool
        For an arm from scratch: train for longer, with the compute that pretraining takes.
    frozen : bool
        Whether it trains its head only. Its comparison says so, since the recipe that all arms share may.
    """

    init: str = "scratch"
    recipe: Any = setting(factory=dict)
    upto: int | None = None
    num_unlabelled: int | None = None
    stack: Any = setting(factory=dict)
    compute_matched: bool = False
    frozen: bool = field(default=False, init=False, compare=False)

    @staticmethod
    def from_config(config: Any, where: str) -> "Arm":
        """Return the arm that a configuration describes; nothing, or null for a setting, leaves its default.

        Raises
        ------
        UserError
            When a setting cannot differ between arms, or has the wrong type.
        """
        given = config or {}
        if not isinstance(given, dict):
            raise UserError(f"{where}={given}: give what it changes, such as {{init: pretrained}}.")
        known = [each.name for each in fields(Arm) if each.init]
        if unknown := {*map(str, given)} - {*known}:
            raise UserError(f"{where}.{min(unknown)} cannot differ between arms; only {', '.join(known)} can.")
        return typed(Arm, {key: value for key, value in given.items() if value is not None}, where)

    def to_config(self) -> Config:
        """Return the settings that this arm has of its own."""
        default = Arm(init="")
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        return {key: value for key, value in own.items() if value != getattr(default, key)}

    @property
    def pretrained(self) -> bool:
        """Whether its layers are pretrained."""
        return self.init == "pretrained"

    @property
    def variant(self) -> bool:
        """Whether it has another pretraining than the comparison's: fewer layers, fewer images, other stages."""
        return self.upto is not None or self.num_unlabelled is not None or bool(self.stack)

    def check(self, where: str, stages: int) -> None:
        """Raise a `UserError` when its settings contradict each other, for a stack of so many stages."""
        choose(f"{where}.init", self.init, ("scratch", "pretrained"))
        of_pretrained = [key for key in ("upto", "num_unlabelled", "stack") if getattr(self, key) not in (None, {})]
        if of_pretrained and not self.pretrained:
            raise UserError(f"{where}.{of_pretrained[0]} is for pretrained arms: give init: pretrained with it.")
        if self.pretrained and self.compute_matched:
            raise UserError(f"{where}.compute_matched is for arms from scratch: this one has had its pretraining.")
        if self.upto is not None:
            require_between(f"{where}.upto", self.upto, 1, stages)
        if self.num_unlabelled is not None:
            require_between(f"{where}.num_unlabelled", self.num_unlabelled, 1)


def standard_arms() -> dict[str, Arm]:
    """Return the four arms of a usual comparison."""
    frozen = {"freeze": True}
    return {
        "scratch": Arm("scratch"),
        "pretrained": Arm("pretrained"),
        "pretrained-frozen": Arm("pretrained", recipe=frozen),
        "random-frozen": Arm("scratch", recipe=frozen),
    }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, on which data, with which labels and seeds.

    Attributes
    ----------
    out : str
        Folder of the comparison.
    stack : StackSettings
        What is pretrained.
    data : DataSource
        Images.
    recipe : Recipe
        How the assembled network is fine-tuned.
    arms : dict of str to Arm
        Who is compared.
    baseline : str
        The arm that the others are compared with.
    labels : sequence of int or "all"
        Label budgets.
    seeds : sequence of int
        Each draws its own labels, initial weights and pretraining; a claim needs five or more.
    tuning : Tuning
        The search that each arm gets.
    probe : bool
        Also fit linear probes to the features of each depth, pretrained and random.
    jobs : int
        Processes that share the work.
    worker : int, optional
        Changes nothing: a number for each job of a launcher.
    device : Device
        Where to compute.
    overwrite : bool
        Throw away a comparison with other settings that is in the way.

    Raises
    ------
    UserError
        When a setting would make every run fail, or mean something else than it says.
    """

    products: ClassVar[tuple[str, ...]] = (
        *("results.csv", "results.json", "trials.csv", "probes.csv", "report.html", "report.md"),
        *FIGURES,
    )

    out: str = setting(resuming=Resuming.FREE, path=True)
    stack: StackSettings
    data: DataSource = setting(factory=DigitsData)
    recipe: Recipe = setting(factory=Recipe)
    arms: dict[str, Arm] = setting(factory=standard_arms)
    baseline: str = setting("scratch", resuming=Resuming.GROWS)
    labels: Any = setting(factory=lambda: [100], resuming=Resuming.GROWS)
    seeds: Any = setting(factory=lambda: [0, 1, 2, 3, 4], resuming=Resuming.GROWS)
    tuning: Tuning = setting(factory=Tuning)
    probe: bool = setting(False, resuming=Resuming.GROWS)
    jobs: int = setting(1, resuming=Resuming.FREE)
    worker: Any = setting(None, resuming=Resuming.FREE)
    device: Device = setting(factory=Device)
    overwrite: bool = setting(False, resuming=Resuming.FREE)

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        choose("baseline", self.baseline, self.arms)
        for name in ("labels", "seeds"):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        require_between("jobs", self.jobs, 1)
        if self.jobs > 1 and self.device.devices > 1:
            raise UserError("jobs and device.devices cannot both be more than 1: give one of them.")
        if self.tuning.trials != 0 and (shared := {*self.tuning.seeds} & {*self.seeds}):
            raise UserError(
                f"tuning.seeds and seeds share {min(shared)}: runs must not be judged by the draws of trials."
            )
        for name, arm in self.arms.items():
            arm.check(f"arms.{name}", len(self.stack.stages))
            self.stack.changed(arm.stack, f"arms.{name}.stack")
            if arm.compute_matched and not any(each.pretrained and not each.variant for each in self.arms.values()):
                raise UserError(
                    f"arms.{name}.compute_matched: no arm is pretrained in the usual way (init: pretrained alone)."
                )
        self._check_validation()
        object.__setattr__(self, "arms", {name: self._resolved(name) for name in self.arms})

    def _resolved(self, name: str) -> Arm:
        """Return an arm that knows whether it is frozen."""
        arm = replace(self.arms[name])
        object.__setattr__(arm, "frozen", self._recipes[name][0].freeze)
        return arm

    def _check_validation(self) -> None:
        """Refuse what would be chosen on validation images where there are none."""
        for _, recipe in self.recipes_by_setting():
            for key, asked in (("early_stopping", recipe.early_stopping), ("head", recipe.head != "random")):
                if asked and not self.data.validation:
                    raise UserError(f"recipe.{key} needs validation images: give data.validation more than 0.")

    def recipes(self, arm: str) -> list[Recipe]:
        """Return what an arm may be fine-tuned with: a recipe for each of the settings tried, or one alone.

        Raises
        ------
        UserError
            When these do not make a recipe; the setting is named.
        """
        return self._recipes[arm][1:] or self._recipes[arm]

    def recipes_by_setting(self) -> list[tuple[str, Recipe]]:
        """Return all that any arm may be fine-tuned with, each beside the setting that it comes from."""
        where = ["recipe", *["tuning.space" for _ in self.tuning.candidates()]]
        return [
            (f"arms.{name}.recipe" if self.arms[name].recipe else at, recipe)
            for name, recipes in self._recipes.items()
            for at, recipe in zip(where, recipes, strict=True)
        ]

    @cached_property
    def _recipes(self) -> dict[str, list[Recipe]]:
        """For each arm, the recipe where nothing is tuned, and then one for each of the settings tried."""
        shared, tried = as_config(self.recipe), [{}, *self.tuning.candidates()]
        return {
            name: [
                typed(
                    Recipe,
                    {**shared, **each, **arm.recipe},
                    f"arms.{name}.recipe" if arm.recipe else "tuning.space" if each else "recipe",
                )
                for each in tried
            ]
            for name, arm in self.arms.items()
        }

    def is_tuned(self, arm: str) -> bool:
        """Say whether there is anything to choose for an arm: whether its recipes differ in what decides a result."""
        deciding = [decisive(recipe) for recipe in self.recipes(arm)]
        return any(each != deciding[0] for each in deciding)

    def stack_of(self, arm: str) -> StackSettings:
        """Return the stack of an arm: everybody's, with what the arm changes."""
        return self.stack.changed(self.arms[arm].stack, f"arms.{arm}.stack")

    @property
    def main_arm(self) -> str | None:
        """The arm of the verdict: the first of the own pretraining whose layers learn if the baseline's do.

        There is none where the baseline is pretrained itself. Layers that learn are not judged by frozen ones, since
        that would show more than pretraining.
        """
        if self.arms[self.baseline].pretrained:
            return None
        fixed = self.arms[self.baseline].frozen
        pretrained = [name for name, arm in self.arms.items() if arm.pretrained and (arm.frozen or not fixed)]
        whole = [name for name in pretrained if not self.arms[name].variant and self.arms[name].frozen == fixed]
        return next(iter([*whole, *pretrained]), None)

    @property
    def compute_matched_arm(self) -> str | None:
        """The arm from scratch that is given the compute of pretraining, if there is one beside the baseline."""
        matched = (name for name, arm in self.arms.items() if arm.compute_matched and name != self.baseline)
        return next(matched, None)

    def with_threads(self, threads: int) -> "Comparison":
        """Return the comparison with so many threads for each process."""
        return replace(self, device=replace(self.device, threads=threads))


def _whole_numbers(name: str, values: Any) -> list[Any]:
    """Return label budgets or seeds as a list.

    Raises
    ------
    UserError
        When they are not a list of whole numbers without repeats, or budgets "all".
    """
    listed = list(values) if isinstance(values, list | tuple | range) else []
    if not listed or len({*map(str, listed)}) < len(listed):
        raise UserError(f"{name}={values}: give a list without repeats, for example {name}=[10,20,50].")
    if wrong := [value for value in listed if type(value) is not int and (name, value) != ("labels", "all")]:
        raise UserError(f"{name}={values}: {wrong[0]} is not a whole number.")
    return listed
