"""Error messages in lines that say what was wrong, where, and what to do."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.command_line.help_page import groups_of
from pretrain.errors import UserError, system_line
from pretrain.runs.device import ACCELERATORS

LONGEST_NAME = 100  # characters of an option
# Sequences that color a terminal, and other characters that do not print.
UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]")


def error_lines(error: Exception, conf: Path, command: str, arguments: Iterable[str]) -> list[str]:
    """Return the message of an error in plain lines, one for each problem; the arguments are those of `one_line`."""
    text = str(error) if isinstance(error, UserError) else one_line(error, conf, command, arguments)
    return [UNPRINTABLE.sub("", line) for line in text.splitlines()]


def one_line(error: Exception, conf: Path, command: str, arguments: Iterable[str]) -> str:
    """Return the message of an error in one line, with the nearest name for a mistyped setting or option.

    Parameters
    ----------
    error : Exception
        Error that was raised.
    conf : Path
        Folder of configurations.
    command : str
        Name of the command's configuration.
    arguments : iterable of str
        Arguments of the command.
    """
    if isinstance(error, OverrideParseException):
        return f"{error.override}: write setting=value, and quote a list with spaces, as in 'labels=[10, 20]'."
    if isinstance(error, OmegaConfBaseException):
        return omegaconf_line(error)
    # Hydra's error for a missing file is one of each.
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return system_line(error)
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    if not isinstance(error, HydraException):
        return " ".join(lines)
    if unknown := re.match(r"Could not (override|delete from config)\D*?'([^']+)'", lines[0]):
        return _no_such_setting(unknown[2], conf, command, arguments, may_add=unknown[1] == "override")
    if missing := re.search(r"Could not find '([^/']+)/([^']*)'", " ".join(lines)):
        return no_such_option(missing[1], missing[2], conf)
    return " ".join(lines)


def lost_process(error: Exception) -> str | None:
    """Return a line where an error of torch.distributed says that another process of the run has ended; else None."""
    if re.search(r"connection (closed|reset) by peer|gloo|nccl", str(error), flags=re.I):
        return "another process of this run has ended: look for its message, and run the same command again to resume."
    return None


def omegaconf_line(error: OmegaConfBaseException) -> str:
    """Return OmegaConf's message in one line that starts with the setting, if it is known."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key:")), "")
    return f"{key}: {lines[0]}" if key else " ".join(lines)


def no_such_option(group: str, option: str, conf: Path) -> str:
    """Return that a group has no such option, and the nearest one, wherever it stands in the group."""
    if group == "device":
        return f"device={option} is not known; give device.accelerator={option if option in ACCELERATORS else 'cpu'}."
    files = (conf / group).rglob("*.yaml")
    there = sorted(
        str(file.relative_to(conf / group).with_suffix("")) for file in files if file.parent.name != "default_for"
    )
    by_name = {name.split("/")[-1]: name for name in there}
    meant = get_close_matches(option.split("/")[-1], by_name, 1)
    advice = f"did you mean {by_name[meant[0]]}? The options are" if meant else "choose one of"
    return f"{group}={option} is not known; {advice} {', '.join(name for name in there if '/' not in name)}."


def _no_such_setting(key: str, conf: Path, command: str, arguments: Iterable[str], *, may_add: bool) -> str:
    known = _known_settings(conf, command, arguments)
    top = key.split(".")[0]
    if top not in known and (conf / top).is_dir():
        return f"{key}: pretrain.{command} has no settings of the group {top}."
    if options := _options_with(key, conf):
        return f"{key} is a setting of {top}={f' and {top}='.join(options)}: choose one of these as well."
    meant = nearest_setting(key, known)
    advice = f"did you mean {meant}?" if meant else "--cfg job shows all settings."
    if may_add and key.startswith(("arms.", "tuning.space.")):
        guess = f"did you mean {meant}? " if meant and meant != key else ""
        advice = f"{guess}to add it, put + before it, as in '+{key}=...'."
    return f"{key}: there is no such setting; {advice}"


def _options_with(key: str, conf: Path) -> list[str]:
    """Return the options of a group that have a setting which the chosen one lacks, such as the root of a folder."""
    group, _, name = key.partition(".")
    files = sorted((conf / group).glob("*.yaml")) if name and "." not in name else []
    setting = re.compile(rf"^{re.escape(name)}:", flags=re.M)
    return [file.stem for file in files if setting.search(file.read_text(encoding="utf-8"))]


def _known_settings(conf: Path, command: str, arguments: Iterable[str]) -> dict[str, Any]:
    """Return all settings of a command with the groups that its arguments choose, and the groups themselves."""
    groups = dict.fromkeys(groups_of(conf, command), "")
    pairs = [argument.partition("=") for argument in arguments]
    chosen = [f"{name}={option}" for name, _, option in pairs if name in groups and len(option) < LONGEST_NAME]
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            config = OmegaConf.to_container(compose(command, overrides=chosen))
        except (HydraException, OmegaConfBaseException):
            config = OmegaConf.to_container(compose(command))
    assert isinstance(config, dict)
    return {**groups, **{str(key): value for key, value in config.items()}}


def nearest_setting(key: str, known: dict[str, Any]) -> str | None:
    """Return the dotted path of the setting nearest to `key`, part by part; None if there is none.

    If the last part of `key` is the name of settings elsewhere, the nearest of these is returned.
    """
    *_, last = key.split(".")
    elsewhere = [path for path in _paths(known) if path.split(".")[-1] == last and not key.startswith(f"{path}.")]
    if found := get_close_matches(key, elsewhere, 1, cutoff=0.0):
        return found[0]
    path, node = [], known
    for part in key.split("."):
        meant = get_close_matches(part, node, 1) if isinstance(node, dict) else []
        if not meant:
            return None
        path.append(meant[0])
        node = node[meant[0]]
    return ".".join(path)


def _paths(known: dict[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in known.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
