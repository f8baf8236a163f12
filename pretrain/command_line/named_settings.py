"""Load settings of conf/ by name, for use from Python."""

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pretrain.command_line.command import CONF
from pretrain.runs.typed_settings import typed
from pretrain.stages.stack_settings import StackSettings


def load_stack_settings(name: str, *overrides: str) -> StackSettings:
    """Return the settings of a stack in conf/stack/, for a `Comparison` built from Python.

    Parameters
    ----------
    name : str
        Name of the stack's file, such as "cae_small".
    *overrides : str
        Settings to change, as on the command line, such as ``"stack.stages.stage1.training.steps=100"``.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("describe", overrides=[f"stack={name}", *overrides])
    return typed(StackSettings, OmegaConf.to_container(config.stack, resolve=True), "stack")  # type: ignore[arg-type]
