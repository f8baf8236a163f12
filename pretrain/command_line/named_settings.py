"""Load settings of conf/ by name, for use from Python."""

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pretrain.command_line.command import CONF
from pretrain.command_line.error_lines import one_line
from pretrain.errors import UserError
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
    given = [f"stack={name}", *overrides]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("describe", overrides=given)
    except HydraException as error:
        raise UserError(one_line(error, CONF, "describe", given)) from None
    return typed(StackSettings, OmegaConf.to_container(config.stack, resolve=True), "stack")  # type: ignore[arg-type]
