"""A comparison: its arms, label budgets and seeds."""

from dataclasses import dataclass, field, fields
from typing import Any

from pretrain.errors import UserError, choose, require_between
from pretrain.runs.settings import Config, typed


@dataclass
class Arm:
    """What differs between arms.

    Attributes
    ----------
    init : {"scratch", "pretrained"}
        Where the layers start.
    recipe : dict
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
    recipe: dict[str, Any] = field(default_factory=dict)
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
