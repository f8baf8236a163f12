"""The blocks of a command's settings, each with the class that declares them."""

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, is_dataclass
from typing import Any, NamedTuple

from pretrain.network.layer_settings import LayerSettings
from pretrain.runs.setting_types import OnlyWith, split_marks, value_text
from pretrain.runs.typed_settings import Config, declared
from pretrain.stages.kind_settings import settings_of
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Training


class Block(NamedTuple):
    """Settings of one class.

    Attributes
    ----------
    path : str
        The dotted path of the block; empty for the command's own settings.
    kind : type
        The class that declares the settings.
    values : dict
        The settings as they are given; the others have their defaults.
    """

    path: str
    kind: type
    values: Config


def blocks(settings: Any, path: str = "") -> Iterator[Block]:
    """Yield the blocks of a command's settings: its own, those within, and those of each stage of its stack."""
    yield Block(path, type(settings), vars(settings))
    for name in declared(type(settings)):
        value = getattr(settings, name)
        if is_dataclass(value):
            yield from blocks(value, f"{path}{name}.")
    if isinstance(settings, StackSettings):
        for name, stage in settings.stages.items():
            where = f"{path}stages.{name}."
            yield Block(where, settings_of(stage["_target_"]), stage)
            yield Block(f"{where}layer.", LayerSettings, stage["layer"])
            yield Block(f"{where}training.", Training, stage.get("training", {}))


def without_effect(settings: Any, given: Iterable[str]) -> Iterator[str]:
    """Yield a line for each given setting that counts only with a choice that is not made.

    Parameters
    ----------
    settings : dataclass
        Settings of a command.
    given : iterable of str
        Dotted paths of the settings that the user gives. Defaults of a choice that is not made are no mistake.
    """
    asked = {*given}
    for block in blocks(settings):
        for name, (hint, _) in declared(block.kind).items():
            marks = (mark for mark in split_marks(hint)[1] if isinstance(mark, OnlyWith))
            for mark in marks if f"{block.path}{name}" in asked else ():
                chosen = _value(block.kind, block.values, mark.other)
                if chosen not in mark.values:
                    wanted = " or ".join(map(value_text, mark.values))
                    yield (
                        f"{block.path}{name} has no effect with {block.path}{mark.other}={value_text(chosen)}; it "
                        f"counts with {wanted}"
                    )


def _value(kind: type, values: Config, path: str) -> Any:
    """Return a setting by its path within a block, or its default where it is not given."""
    block, _, name = path.rpartition(".")
    if block:
        return _value(LayerSettings, values.get(block, {}), name)
    default = declared(kind)[name][1].default
    return values.get(name, None if default is MISSING else default)
