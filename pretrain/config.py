"""From Hydra's configuration to objects, and from a function to a command."""

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import hydra
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.utils import get_class
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from torch import Tensor

from pretrain.data import Dataset, load_cifar10, load_digits, load_folder
from pretrain.data.sources import class_folders
from pretrain.device import Device, first_then_others, keep_freed_memory
from pretrain.errors import UserError, choose
from pretrain.finetuning import Finetuning
from pretrain.runs import Config
from pretrain.seeding import seeded
from pretrain.stack import Stack
from pretrain.stages import Stage
from pretrain.training import Optimisation

_HERE = Path(__file__).parent
CONF = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir())  # in a wheel; in a clone
WANTED = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}  # by OmegaConf's name of a type
FOLDERS = ("out", "run", "stages", "images")  # settings in which ~ stands for the home folder, as it does in data.*
NAMED = ("out", "run", "stages")  # of these, where a number is a folder's name
SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "folder": load_folder,
}


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
        _complain(f"error: {_one_line(error)}")
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from the last checkpoint")
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


@rank_zero_only
def _complain(line: str) -> None:
    """Print a line on standard error, once for all the processes."""
    print(line, file=sys.stderr)


def _one_line(error: Exception) -> str:
    """Return what a message says, in one line, and the key that it is about where OmegaConf names one."""
    if isinstance(error, OverrideParseException):
        return f"{error.override}: write setting=value, and a list without blanks or in quotes, 'labels=[10, 20]'."
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    if isinstance(error, HydraException) and lines[0].startswith("Could not override"):
        added = "+" + lines[-1].partition("+")[2]  # Hydra's own advice
        new = added.startswith(("+arms.", "+tuning.space."))
        return f"{lines[0]} There is no such setting; " + (
            f"to add it, begin it with +, as in '{added}'." if new else "--help lists those there are."
        )
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key:")), "")
    if wrong := re.fullmatch(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", lines[0]):
        return f"{key}={wrong[1]}: it must be {WANTED.get(wrong[2], f'of type {wrong[2]}')}."
    return f"{key}: {lines[0]}" if key else " ".join(lines)


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Have the complaints of what is inside begin with the configuration's path."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _no_such(where: str, key: object, known: Iterable[str]) -> UserError:
    """Return the complaint that there is no setting `key`, with the one that was meant or all that there are."""
    meant = get_close_matches(str(key), known, 1)
    advice = f"did you mean {meant[0]}?" if meant else f"choose among {', '.join(known)}."
    return UserError(f"{where}.{key}: there is no such setting; {advice}".lstrip("."))


def load_data(config: Config, fabric: Fabric) -> Dataset:
    """Load the data that conf/data/ describes, the first process before the others: it may download or decode.

    Raises
    ------
    UserError
        When there is no such data set, a setting of it is wrong, or its images cannot be had.
    """
    choose("data.name", config["name"], SOURCES)
    settings = dict(config)
    source = SOURCES[settings.pop("name")]
    if "root" in settings:
        settings["root"] = str(settings["root"])  # a folder's name may be a number
    if "unlabelled" in settings and not isinstance(settings["unlabelled"], list):
        settings["unlabelled"] = [] if settings["unlabelled"] is None else [str(settings["unlabelled"])]
    typed_settings = typed_keywords(source, settings, "data")
    data = first_then_others(fabric, lambda: source(**typed_settings))
    if data.skipped:
        _complain(
            f"{len(data.skipped):,} files could not be read as images and are left out; see skipped.csv of the run"
        )
    if data.leakage and data.leakage.shared:
        _complain(str(data.leakage))
    return data


def data_shape(config: Config) -> tuple[tuple[int, int, int], Sequence[str]]:
    """Return the volume (C, H, W) of an image and the classes, without loading any.

    Raises
    ------
    UserError
        When there is no such data set, or no folder of its classes.
    """
    choose("data.name", config["name"], SOURCES)
    if config["name"] == "folder":
        shape = (config["channels"], config["image_size"], config["image_size"])
        return shape, class_folders(Path(str(config["root"])).expanduser() / "train")
    return {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}[config["name"]], [str(k) for k in range(10)]


@dataclass
class StackPlan:
    """A stack, and how each of its stages is to be trained."""

    stack: Stack
    training: list[Optimisation]


def build_stack(config: Config, images: Tensor, seed: int) -> StackPlan:
    """Build the untrained stack that conf/stack/ describes, for images (N, C, H, W).

    Raises
    ------
    UserError
        When a stage is unknown, or does not fit what is below it.
    """
    stages: list[Stage] = []
    training = []
    for name, settings in stage_settings(config).items():
        where = f"stack.stages.{name}"
        below = stages[-1].out_channels if stages else images.shape[1]
        kind = functools.partial(_stage_class(settings["_target_"]), below)
        keywords = {key: value for key, value in settings.items() if key not in ("_target_", "training")}
        with seeded(seed, "initialise", name), _at(where):
            stages.append(kind(**typed_keywords(kind, keywords, where)))
        training.append(typed(Optimisation, settings.get("training", {}), f"{where}.training"))
    options = typed_keywords(Stack, {key: config[key] for key in ("preprocessing", "normalisation")}, "stack")
    return StackPlan(Stack(stages, images, **options), training)


def stage_settings(config: Config) -> dict[str, Config]:
    """Return the settings of each stage that conf/stack/ describes, by name, from the input upwards.

    Raises
    ------
    UserError
        When there is none, or something else in its place.
    """
    stages = config["stages"]
    if not isinstance(stages, dict) or not stages:
        raise UserError(f"stack.stages={stages}: give the settings of each stage under its name.")
    for name, settings in stages.items():
        if not isinstance(settings, dict) or "_target_" not in settings:
            raise UserError(f"stack.stages.{name}={settings}: give the settings of a stage, _target_ among them.")
    return stages


def _stage_class(target: str) -> Callable[..., Stage]:
    try:
        found = get_class(target)
    except Exception as error:  # Hydra raises several kinds; each means that there is no such class
        raise UserError(f"_target_={target} is no kind of stage ({str(error).splitlines()[0]}).") from None
    if not issubclass(found, Stage):
        raise UserError(f"_target_={target} is no kind of stage: it must be a subclass of pretrain.stages.Stage.")
    return found


def typed(kind: type, config: Config, where: str = "") -> Any:
    """Return an object of a dataclass from a configuration, its types checked; `where` is the configuration's path.

    Raises
    ------
    UserError
        When a value has the wrong type; the setting is named.
    """
    try:
        with _at(where):
            return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), config))
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise _no_such(where, error.key, [each.name for each in fields(kind)]) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{where}.{_one_line(error)}".lstrip(".")) from None


def typed_keywords(function: Callable[..., Any], keywords: Config, where: str) -> Config:
    """Return keywords of a function, those of a plain type checked against its annotations.

    Raises
    ------
    UserError
        When it has no such keyword, or a value has the wrong type; the setting is named.
    """
    known = inspect.signature(function, eval_str=True).parameters
    if unknown := [key for key in keywords if key not in known]:
        raise _no_such(where, unknown[0], known)
    checked = {bool, int, float, str, type(None)}
    hints = [(key, known[key].annotation) for key in keywords]
    keyword_fields = [(key, hint if {*(get_args(hint) or [hint])} <= checked else Any) for key, hint in hints]
    return vars(typed(make_dataclass("Keywords", keyword_fields), keywords, where))


def finetuning_settings(config: Config, where: str = "finetuning") -> Finetuning:
    """Return what conf/finetuning/ describes; `where` is the configuration's path."""
    return typed(Finetuning, config, where)


def device_settings(config: Config) -> Device:
    """Return the device that conf/base.yaml describes."""
    return typed(Device, config, "device")


def blank_images(shape: tuple[int, int, int]) -> Tensor:
    """Return one black image, to build a stack on where there is no data."""
    return torch.zeros(1, *shape, dtype=torch.uint8)
