"""Error messages in one line that says what was wrong, where, and what to do."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.runs.typed_settings import omegaconf_line


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
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    if not isinstance(error, HydraException):
        return " ".join(lines)
    if unknown := re.match(r"Could not (?:override|delete from config)\D*?'([^']+)'", lines[0]):
        return _no_such_setting(unknown[1], conf, command, arguments)
    if missing := re.search(r"Could not find '([^/']+)/([^']*)'", lines[0] if len(lines) == 1 else " ".join(lines)):
        return _no_such_option(missing[1], missing[2], sorted(file.stem for file in (conf / missing[1]).glob("*.yaml")))
    return " ".join(lines)


def _no_such_option(group: str, option: str, there: list[str]) -> str:
    meant = get_close_matches(option, there, 1)
    advice = f"did you mean {meant[0]}? The options are" if meant else "choose one of"
    return f"{group}={option} is not known; {advice} {', '.join(there)}."


def _no_such_setting(key: str, conf: Path, command: str, arguments: Iterable[str]) -> str:
    if key.startswith(("arms.", "tuning.space.")):
        return f"{key}: there is no such setting; to add it, put + before it, as in '+{key}=...'."
    meant = nearest_setting(key, _known_settings(conf, command, arguments))
    advice = f"did you mean {meant}?" if meant else "--help lists all settings."
    return f"{key}: there is no such setting; {advice}"


def _known_settings(conf: Path, command: str, arguments: Iterable[str]) -> dict[str, Any]:
    """Return the settings of a command for the groups that its arguments choose, and the groups."""
    text = (conf / f"{command}.yaml").read_text()
    groups = {name: "" for name in re.findall(r"(\w+): ", text) if (conf / name).is_dir()}
    chosen = [
        each for each in arguments if (conf / each.partition("=")[0] / f"{each.partition('=')[2]}.yaml").is_file()
    ]
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = OmegaConf.to_container(compose(command, overrides=chosen))
    assert isinstance(config, dict)
    return {**groups, **{str(key): value for key, value in config.items()}}


def nearest_setting(key: str, known: dict[str, Any]) -> str | None:
    """Return the dotted path of the setting nearest to `key`, part by part; None if there is none.

    If the last part of `key` is the name of settings elsewhere, the nearest of these is returned.
    """
    *_, last = key.split(".")
    elsewhere = [path for path in _paths(known) if path.split(".")[-1] == last]
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
