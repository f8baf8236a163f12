"""The settings of a stack: its stages by name, and what is done to images below it and to outputs within it."""

from dataclasses import dataclass
from typing import Any

from pretrain.errors import UserError
from pretrain.runs.settings import Config, no_such_setting


@dataclass(frozen=True)
class StackSettings:
    """What a stack is built from, anew for each seed.

    Attributes
    ----------
    name : str
        What reports call it.
    stages : dict of str to dict
        The settings of each stage under its name, from the input upwards: ``_target_``, the class of the stage;
        ``layer``, the settings of its layer; ``training``, how it is trained; and what else its class takes.
    preprocessing, normalization : str
        Those of `pretrain.stages.stack.Stack`.
    """

    name: str
    stages: dict[str, Any]
    preprocessing: str = "standardize"
    normalization: str = "scale"

    def __post_init__(self) -> None:
        """Refuse a stack without stages, and what is no stage."""
        if not isinstance(self.stages, dict) or not self.stages:
            raise UserError(f"stack.stages={self.stages}: give the settings of each stage under its name.")
        for name, settings in self.stages.items():
            if not isinstance(settings, dict) or "_target_" not in settings:
                raise UserError(f"stack.stages.{name}={settings}: give the settings of a stage, _target_ among them.")

    def changed(self, changes: Config, where: str) -> "StackSettings":
        """Return the stack with changes at any depth; a stage of another class replaces the one that was there.

        Raises
        ------
        UserError
            When a stack has no such setting.
        """
        if unknown := sorted(changes.keys() - vars(self).keys()):
            raise no_such_setting(where, unknown[0], vars(self))
        return StackSettings(**_merged(vars(self), changes))


def _merged(settings: Config, changes: Config) -> Config:
    """Return settings with changes at any depth."""
    if "_target_" in changes and changes["_target_"] != settings.get("_target_"):
        return changes
    nested = {key for key in settings.keys() & changes.keys() if isinstance(changes[key], dict)}
    nested = {key for key in nested if isinstance(settings[key], dict)}
    return {**settings, **changes, **{key: _merged(settings[key], changes[key]) for key in nested}}
