"""The arms of a comparison: what each has of its own, and whether it is frozen."""

from dataclasses import dataclass, field, fields
from typing import Any

from pretrain.errors import UserError, choose, require_between
from pretrain.runs.typed_settings import Config, as_config, setting, settle, typed


@dataclass(frozen=True)
class Arm:
    """One way to train the network. Arms share every setting but those that they name here.

    Attributes
    ----------
    init : {"scratch", "pretrained"}
        Where the layers start.
    recipe : dict
        Settings of the recipe that this arm sets itself. Tuning leaves them alone.
    upto : int, optional
        Number of pretrained layers that a pretrained arm keeps. The layers above them start from scratch.
    num_unlabelled : int, optional
        Number of unlabelled images that a pretrained arm learns from; None for all.
    stack : dict
        Settings of the stack that a pretrained arm changes for its pretraining. The network must stay the same.
    compute_matched : bool
        Whether an arm from scratch trains for longer, with the compute that pretraining takes.
    frozen : bool
        Whether the arm trains its head only. Its comparison sets this, since the shared recipe may freeze all arms.
    """

    init: str = "scratch"
    recipe: Any = setting(factory=dict)
    upto: int | None = None
    num_unlabelled: int | None = None
    stack: Any = setting(factory=dict)
    compute_matched: bool = False
    frozen: bool = field(default=False, init=False, compare=False)

    def __post_init__(self) -> None:
        """Reject values of other types."""
        settle(self)
        for name in ("recipe", "stack"):
            if not isinstance(value := getattr(self, name), dict):
                raise UserError(f"{name}={value}: give a dict of the settings that the arm changes.")

    @staticmethod
    def from_config(config: Any, where: str) -> "Arm":
        """Return the arm that a configuration describes. A setting that is missing or null keeps its default.

        Raises
        ------
        UserError
            When a setting cannot differ between arms, or has the wrong type.
        """
        given = config or {}
        if not isinstance(given, dict):
            raise UserError(f"{where}={given}: give the settings that the arm changes, such as {{init: pretrained}}.")
        known = [each.name for each in fields(Arm) if each.init]
        if unknown := {*map(str, given)} - {*known}:
            raise UserError(f"{where}.{min(unknown)} cannot differ between arms; only {', '.join(known)} can.")
        return typed(Arm, {key: value for key, value in given.items() if value is not None}, where)

    def to_config(self) -> Config:
        """Return the settings of this arm that differ from their defaults, and its init."""
        default = Arm(init="")
        own = {each.name: as_config(getattr(self, each.name)) for each in fields(self) if each.init}
        return {key: value for key, value in own.items() if value != getattr(default, key)}

    @property
    def pretrained(self) -> bool:
        """Whether the layers are pretrained."""
        return self.init == "pretrained"

    @property
    def variant(self) -> bool:
        """Whether the pretraining differs from the comparison's own: fewer layers, fewer images or other stages."""
        return self.upto is not None or self.num_unlabelled is not None or bool(self.stack)

    def check(self, where: str, stages: int) -> None:
        """Refuse settings that contradict each other, for a stack with this number of stages.

        Raises
        ------
        UserError
            When one does.
        """
        choose(f"{where}.init", self.init, ("scratch", "pretrained"))
        for_pretrained = [key for key in ("upto", "num_unlabelled", "stack") if getattr(self, key) not in (None, {})]
        if for_pretrained and not self.pretrained:
            raise UserError(f"{where}.{for_pretrained[0]} is for pretrained arms: give init: pretrained with it.")
        if self.pretrained and self.compute_matched:
            raise UserError(f"{where}.compute_matched is for arms from scratch, and this arm is pretrained.")
        if self.upto is not None:
            require_between(f"{where}.upto", self.upto, 1, stages)
        if self.num_unlabelled is not None:
            require_between(f"{where}.num_unlabelled", self.num_unlabelled, 1)


def standard_arms() -> dict[str, Arm]:
    """Return the four arms of a standard comparison."""
    frozen = {"freeze": True}
    return {
        "scratch": Arm("scratch"),
        "pretrained": Arm("pretrained"),
        "pretrained-frozen": Arm("pretrained", recipe=frozen),
        "random-frozen": Arm("scratch", recipe=frozen),
    }
