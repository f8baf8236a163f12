"""From a function to a command."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.command_line.error_lines import one_line
from pretrain.errors import UserError
from pretrain.runs.device import keep_freed_memory
from pretrain.runs.progress import complain
from pretrain.runs.settings import Config, typed

_HERE = Path(__file__).parents[1]
CONF = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir())  # in a wheel; in a clone
FOLDERS = ("out", "run", "stages", "images")  # settings in which ~ stands for the home folder, as it does in data.*
NAMED = ("out", "run", "stages")  # of these, where a number is a folder's name


@dataclass
class Common:
    """Types of settings that stand at the top, wherever a command has them."""

    seed: int = 0
    overwrite: bool = False
    upto: int | None = None
    pool: int | None = None
    test: bool = True
    probe: bool = False
    jobs: int = 1


def command(name: str) -> Callable[[Callable[[Config], None]], Callable[[], None]]:
    """Make a function of a plain, resolved configuration into the command that conf/`name`.yaml configures.

    A user's mistake becomes one line on standard error and exit status 2, an interruption exit status 130.
    """

    def decorate(function: Callable[[Config], None]) -> Callable[[], None]:
        @hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")
        @functools.wraps(function)
        def run(config: DictConfig) -> None:
            with _one_line_for_mistakes():
                function(plain(config))

        @functools.wraps(function)
        def main() -> None:
            keep_freed_memory()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own errors reach us, instead of being printed by it
            sys.argv[1:] = [_quoted(argument) for argument in sys.argv[1:]]
            with _one_line_for_mistakes():
                run()

        return main

    return decorate


def _quoted(argument: str) -> str:
    """Quote the value of a setting that Hydra's grammar has no word for: a path with accents, ``~``, brackets."""
    key, equals, value = argument.partition("=")
    try:
        if equals and not argument.startswith("-"):
            OverridesParser.create().parse_override(argument)
    except HydraException:
        if not value.startswith(("[", "{", "'", '"')):
            return f"{key}='{value}'" if "'" not in value else f'{key}="{value}"'
    return argument


@contextmanager
def _one_line_for_mistakes() -> Iterator[None]:
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        complain(f"error: {one_line(error)}")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last checkpoint")
        sys.exit(130)
    finally:
        if torch.distributed.is_initialized():  # or its threads may end the process with a cry of their own
            torch.distributed.destroy_process_group()


def plain(config: DictConfig) -> Config:
    """Resolve a configuration to dicts, lists and values.

    Raises
    ------
    UserError
        When a value that must be given is missing, or one has the wrong type.
    """
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise UserError("; ".join(f"{key} is missing: give {key}=..." for key in sorted(missing)))
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    common = {key: value for key, value in resolved.items() if key in Common.__annotations__}
    named = {key: str(resolved[key]) for key in NAMED if isinstance(resolved.get(key), int | float)}
    folders = {key: os.path.expanduser(resolved[key]) for key in FOLDERS if isinstance(resolved.get(key), str)} | named
    checked = vars(typed(Common, common))
    return {**resolved, **{key: checked[key] for key in common}, **folders}
