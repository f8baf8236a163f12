"""The settings of a stack: its stages by name, and what is done to images below it and to outputs within it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pretrain.errors import UserError
from pretrain.network.layer_settings import LayerSettings, Normalization
from pretrain.network.shapes import LayerRow, Preprocessing, Shape, layer_rows
from pretrain.runs.setting_types import PlainName, value_text
from pretrain.runs.typed_settings import Config, Settings, at, gathered, problems_within, typed
from pretrain.stages.kind_settings import KindSettings, settings_of
from pretrain.stages.training_settings import Training


@dataclass(frozen=True)
class StackSettings(Settings):
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
    stages: dict[PlainName, Any]
    preprocessing: Preprocessing = "standardize"
    normalization: Normalization = "scale"

    def contradictions(self) -> Iterator[str]:
        """Yield a line for a stack without stages, and for what is no stage."""
        if not self.stages:
            yield "stages={}: give the settings of each stage under its name."
        for name, settings in self.stages.items():
            if not isinstance(settings, dict) or "_target_" not in settings:
                yield f"stages.{name}={value_text(settings)}: give the settings of a stage, _target_ among them."
        if all(isinstance(settings, dict) and "_target_" in settings for settings in self.stages.values()):
            yield from problems_within("", self.layers, 1)
            yield from problems_within("", self.trainings)

    def layers(self, channels: int) -> dict[str, LayerSettings]:
        """Return the settings of the layer of each stage, by the stage's name; images have so many channels.

        Raises
        ------
        UserError
            When settings are unknown or wrong, or a stage cannot train its layer. The lines start with their paths
            within the stack.
        """
        layers: dict[str, LayerSettings] = {}
        with gathered() as problems:
            for name, settings in self.stages.items():
                with problems.noted(), at(f"stages.{name}"):
                    layers[name] = _layer(settings.get("layer"), channels)
                    channels = layers[name].out_channels
                with problems.noted():
                    kind = self.kind(name)
                    if name in layers:
                        with at(f"stages.{name}"):
                            kind.check_layer(layers[name])
        return layers

    def kind(self, name: str) -> KindSettings:
        """Return the settings of a stage beside those of its layer and its training.

        Raises
        ------
        UserError
            When a setting is unknown or wrong.
        """
        settings = self.stages[name]
        own = {key: value for key, value in settings.items() if key not in ("_target_", "layer", "training")}
        with at(f"stages.{name}"):
            return typed(settings_of(settings["_target_"]), own)

    def trainings(self) -> list[Training]:
        """Return how each stage is trained, from the input upwards.

        Raises
        ------
        UserError
            When settings are unknown or wrong. The lines start with their paths within the stack.
        """
        trainings = []
        with gathered() as problems:
            for name, settings in self.stages.items():
                with problems.noted(), at(f"stages.{name}.training"):
                    trainings.append(typed(Training, settings.get("training", {})))
                    if not problems_within("", self.kind, name):
                        self.kind(name).check_rate(trainings[-1].learning_rate)
        return trainings

    def layer_rows(self, image_shape: Shape, classes: int | None) -> list[LayerRow]:
        """Return the layer table of the network that the stack becomes.

        Raises
        ------
        UserError
            When a layer does not fit what is below it. The line starts with its path within the stack.
        """
        layers = self.layers(image_shape[0])
        layer_rows({f"stages.{name}.layer": layer for name, layer in layers.items()}, image_shape)
        named = {f"layers.{k}": layer for k, layer in enumerate(layers.values())}
        return layer_rows(named, image_shape, preprocessing=self.preprocessing, classes=classes)

    def changed(self, changes: Config) -> "StackSettings":
        """Return the stack with changes at any depth; a stage of another class replaces the one that was there.

        Raises
        ------
        UserError
            When a stack has no such setting, or not such a value of it.
        """
        return typed(StackSettings, _merged(vars(self), changes))


def _layer(given: Any, channels: int) -> LayerSettings:
    """Return the settings of the layer of a stage."""
    if not isinstance(given, dict) or "out_channels" not in given:
        raise UserError(f"layer={value_text(given)}: give the settings of a layer, out_channels among them.")
    if "in_channels" in given:
        raise UserError("layer.in_channels: there is no such setting; what is below decides it.")
    return typed(LayerSettings, {"in_channels": channels, **given}, "layer")


def _merged(settings: Config, changes: Config) -> Config:
    """Return settings with changes at any depth."""
    if "_target_" in changes and changes["_target_"] != settings.get("_target_"):
        return changes
    nested = {key for key in settings.keys() & changes.keys() if isinstance(changes[key], dict)}
    nested = {key for key in nested if isinstance(settings[key], dict)}
    return {**settings, **changes, **{key: _merged(settings[key], changes[key]) for key in nested}}
