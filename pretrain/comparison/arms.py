"""The arms of a comparison: what each has of its own, and whether it is frozen."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pretrain.errors import UserError
from pretrain.runs.setting_types import Count, value_text
from pretrain.runs.typed_settings import Config, Settings, as_config, setting, typed


@dataclass(frozen=True)
class Arm(Settings):
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

    init: Literal["scratch", "pretrained"] = "scratch"
    recipe: dict[str, Any] = setting(factory=dict)
    upto: Count | None = None
    num_unlabelled: Count | None = None
    stack: dict[str, Any] = setting(factory=dict)
    compute_matched: bool = False
    frozen: bool = field(default=False, init=False, compare=False)

    def contradictions(self) -> Iterator[str]:
        """Yield a line for each setting that the arm's start has no use for."""
        for name in ("upto", "num_unlabelled", "stack"):
            if getattr(self, name) not in (None, {}) and not self.pretrained:
                yield f"{name} is for pretrained arms: give init: pretrained with it."
        if self.pretrained and self.compute_matched:
            yield "compute_matched is for arms from scratch, and this arm is pretrained."

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
            raise UserError(
                f"{where}={value_text(given)}: give the settings that the arm changes, such as {{init: pretrained}}."
            )
        known = [each.name for each in fields(Arm) if each.init]
        if unknown := {*map(str, given)} - {*known}:
            raise UserError(f"{where}.{min(unknown)} cannot differ between arms; only {', '.join(known)} can.")
        return typed(Arm, {key: value for key, value in given.items() if value is not None}, where)

    def to_config(self) -> Config:
        """Return the settings of this arm that differ from their defaults, and its init."""
        default = Arm()
        own = {each.name: as_config(getattr(self, each.name)) for each in fields(self) if each.init}
        return {key: value for key, value in own.items() if key == "init" or value != getattr(default, key)}

    @property
    def pretrained(self) -> bool:
        """Whether the layers are pretrained."""
        return self.init == "pretrained"

    @property
    def variant(self) -> bool:
        """Whether the pretraining differs from the comparison's own: fewer layers, fewer images or other stages."""
        return self.upto is not None or self.num_unlabelled is not None or bool(self.stack)


def standard_arms() -> dict[str, Arm]:
    """Return the four arms of a standard comparison."""
    frozen = {"freeze": True}
    return {
        "scratch": Arm("scratch"),
        "pretrained": Arm("pretrained"),
        "pretrained-frozen": Arm("pretrained", recipe=frozen),
        "random-frozen": Arm("scratch", recipe=frozen),
    }
