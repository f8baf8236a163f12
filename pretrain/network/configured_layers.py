"""The layers that the configuration of a stack describes, without importing torch."""

from pretrain.errors import UserError
from pretrain.network.layer_settings import LayerSettings
from pretrain.network.shapes import LayerRow, Shape, layer_rows
from pretrain.runs.settings import Config, typed


def stage_settings(stack: Config) -> dict[str, Config]:
    """Return the settings of each stage that conf/stack/ describes, by name, from the input upwards.

    Raises
    ------
    UserError
        When there is none, or something else in its place.
    """
    stages = stack["stages"]
    if not isinstance(stages, dict) or not stages:
        raise UserError(f"stack.stages={stages}: give the settings of each stage under its name.")
    for name, settings in stages.items():
        if not isinstance(settings, dict) or "_target_" not in settings:
            raise UserError(f"stack.stages.{name}={settings}: give the settings of a stage, _target_ among them.")
    return stages


def configured_layers(stack: Config, channels: int) -> dict[str, LayerSettings]:
    """Return the settings of the layer of each stage, by the stage's name; images have so many channels.

    Raises
    ------
    UserError
        When a setting is unknown or wrong; its path in the configuration is named.
    """
    layers: dict[str, LayerSettings] = {}
    for name, settings in stage_settings(stack).items():
        where, layer = f"stack.stages.{name}.layer", settings.get("layer")
        if not isinstance(layer, dict) or "out_channels" not in layer:
            raise UserError(f"{where}={layer}: give the settings of a layer, out_channels among them.")
        if "in_channels" in layer:
            raise UserError(f"{where}.in_channels: there is no such setting; what is below decides it.")
        layers[name] = typed(LayerSettings, {"in_channels": channels, **layer}, where)
        channels = layers[name].out_channels
    return layers


def describe_network(stack: Config, image_shape: Shape, classes: int) -> list[LayerRow]:
    """Return the layer table of the network that a stack becomes.

    Raises
    ------
    UserError
        When a setting of a layer is wrong, or a layer does not fit what is below it.
    """
    layers = list(configured_layers(stack, image_shape[0]).values())
    # A misfit is named by the stage, as where the stack is built.
    layer_rows({f"stage {k}": layer for k, layer in enumerate(layers, 1)}, image_shape)
    named = {f"layers.{k}": layer for k, layer in enumerate(layers)}
    return layer_rows(named, image_shape, preprocessing=stack["preprocessing"], classes=classes)
