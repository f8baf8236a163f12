"""The settings of a stack: its stages by name, and what is done to images below it and to outputs within it."""

from dataclasses import dataclass
from typing import Any

from pretrain.errors import UserError, choose
from pretrain.network.layer_settings import NORMALIZATIONS, LayerSettings
from pretrain.network.shapes import PREPROCESSINGS, LayerRow, Shape, layer_rows
from pretrain.runs.typed_settings import Config, complaints_at, no_such_setting, typed


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
        choose("stack.preprocessing", self.preprocessing, PREPROCESSINGS)
        choose("stack.normalization", self.normalization, NORMALIZATIONS)
        if not isinstance(self.stages, dict) or not self.stages:
            raise UserError(f"stack.stages={self.stages}: give the settings of each stage under its name.")
        for name, settings in self.stages.items():
            if not isinstance(settings, dict) or "_target_" not in settings:
                raise UserError(f"stack.stages.{name}={settings}: give the settings of a stage, _target_ among them.")

    def layers(self, channels: int) -> dict[str, LayerSettings]:
        """Return the settings of the layer of each stage, by the stage's name; images have so many channels.

        Raises
        ------
        UserError
            When a setting is unknown or wrong; its path in the configuration is named.
        """
        layers: dict[str, LayerSettings] = {}
        for name, settings in self.stages.items():
            where, layer = f"stack.stages.{name}.layer", settings.get("layer")
            if not isinstance(layer, dict) or "out_channels" not in layer:
                raise UserError(f"{where}={layer}: give the settings of a layer, out_channels among them.")
            if "in_channels" in layer:
                raise UserError(f"{where}.in_channels: there is no such setting; what is below decides it.")
            layers[name] = typed(LayerSettings, {"in_channels": channels, **layer}, where)
            channels = layers[name].out_channels
        return layers

    def layer_rows(self, image_shape: Shape, classes: int) -> list[LayerRow]:
        """Return the layer table of the network that the stack becomes.

        Raises
        ------
        UserError
            When a setting of a layer is wrong, or a layer does not fit what is below it.
        """
        layers = list(self.layers(image_shape[0]).values())
        # A misfit is named by the stage, as where the stack is built.
        layer_rows({f"stage {k}": layer for k, layer in enumerate(layers, 1)}, image_shape)
        named = {f"layers.{k}": layer for k, layer in enumerate(layers)}
        return layer_rows(named, image_shape, preprocessing=self.preprocessing, classes=classes)

    def changed(self, changes: Config, where: str) -> "StackSettings":
        """Return the stack with changes at any depth; a stage of another class replaces the one that was there.

        Raises
        ------
        UserError
            When a stack has no such setting.
        """
        if unknown := sorted(changes.keys() - vars(self).keys()):
            raise no_such_setting(where, unknown[0], vars(self))
        with complaints_at(where):
            return StackSettings(**_merged(vars(self), changes))


def _merged(settings: Config, changes: Config) -> Config:
    """Return settings with changes at any depth."""
    if "_target_" in changes and changes["_target_"] != settings.get("_target_"):
        return changes
    nested = {key for key in settings.keys() & changes.keys() if isinstance(changes[key], dict)}
    nested = {key for key in nested if isinstance(settings[key], dict)}
    return {**settings, **changes, **{key: _merged(settings[key], changes[key]) for key in nested}}
