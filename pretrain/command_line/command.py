"""Make a command from a function of typed settings."""

import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.command_line.arguments import prepared, settings_given
from pretrain.command_line.blocks import without_effect
from pretrain.command_line.error_lines import error_lines, lost_process
from pretrain.command_line.help_page import help_page
from pretrain.errors import UserError
from pretrain.runs.device import keep_freed_memory
from pretrain.runs.interruption import Interruption, signals_end_the_process
from pretrain.runs.memory import out_of_memory
from pretrain.runs.progress import complain, is_first_process
from pretrain.runs.typed_settings import Config, typed

T = TypeVar("T")
INTERRUPTED = 130  # exit status after Ctrl-C
PATIENCE = 3.0  # seconds that the first of several processes has to say what is wrong
_HERE = Path(__file__).parents[1]
# A wheel has conf/ inside the package, a clone beside it.
CONF = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir())

# Hydra raises its errors then, instead of printing them. Matplotlib draws into files, as if the user had no settings.
# Kineto, which torch.profiler stands on, does not tell of its own affairs.
ENVIRONMENT = {
    **{"HYDRA_FULL_ERROR": "1", "MPLBACKEND": "Agg", "MATPLOTLIBRC": os.devnull},
    "KINETO_LOG_LEVEL": "99",
}


def command(kind: type[T]) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Make a function a command, configured by the YAML file in conf/ with the name of the function's file.

    A user's mistake, and memory that ran out, print a line on standard error with exit status 2. Ctrl-C, SIGTERM and
    SIGHUP save and end the run, with the exit status of the signal.

    Parameters
    ----------
    kind : type
        Dataclass of the settings.
    """

    def decorate(function: Callable[[T], None]) -> Callable[[], None]:
        name = Path(function.__code__.co_filename).stem
        as_typed: list[str] = []  # arguments, before they are quoted for Hydra

        @hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")
        @functools.wraps(function)
        def run(config: DictConfig) -> None:
            with _one_line_for_mistakes(name):
                settings = typed(kind, plain(config))
                for line in without_effect(settings, settings_given(sys.argv[1:])):
                    complain(f"note: {line}")
                # A run records the command that its user typed.
                sys.argv[1:] = as_typed or sys.argv[1:]
                function(settings)

        @functools.wraps(function)
        def main() -> None:
            _print_anything()
            if {"--help", "-h"} & {*sys.argv[1:]}:
                print(help_page(CONF, name))
                return
            keep_freed_memory()
            os.environ |= ENVIRONMENT
            # Without a home folder, matplotlib would tell where it keeps its cache instead.
            logging.getLogger("matplotlib").setLevel(logging.ERROR)
            # Torchrun passes on a signal that its processes may have received as well.
            with signals_end_the_process(patient="TORCHELASTIC_RUN_ID" in os.environ), _one_line_for_mistakes(name):
                as_typed[:] = sys.argv[1:]
                sys.argv[1:] = prepared(as_typed, kind, CONF, name)
                run()

        return main

    return decorate


def plain(config: DictConfig) -> Config:
    """Return a resolved configuration as dicts, lists and values."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return resolved  # type: ignore[return-value]


def _print_anything() -> None:
    """Let a name be printed in any encoding, with escapes where it lacks a character, or to streams that are closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # A file opened later would else become the process's standard output.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")


@contextmanager
def _one_line_for_mistakes(name: str) -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough. What Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        for problem in error_lines(error, CONF, name, sys.argv[1:]):
            complain(f"error: {problem}")
        _exit_with_a_mistake()
    except (MemoryError, RuntimeError, ImportError) as error:
        if not (line := out_of_memory(error) or lost_process(error)):
            raise
        complain(f"error: {line}")
        _exit_with_a_mistake()
    except KeyboardInterrupt as interruption:
        complain("interrupted; run the same command again to resume")
        sys.exit(interruption.status if isinstance(interruption, Interruption) else INTERRUPTED)
    finally:
        _end_processes()


def _exit_with_a_mistake() -> NoReturn:
    if not is_first_process():
        # What starts processes may end all of them with the first that fails.
        time.sleep(PATIENCE)
    sys.exit(2)


def _end_processes() -> None:
    """End the group of data-parallel processes, whose threads may otherwise print errors at exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_initialized():
        distributed.destroy_process_group()
