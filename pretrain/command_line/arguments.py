"""The arguments of a command before Hydra reads them: names as they are written, and what cannot be meant."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pretrain.command_line.error_lines import no_such_option
from pretrain.command_line.help_page import groups_of
from pretrain.runs.setting_types import alternatives, is_settings, split_marks
from pretrain.runs.typed_settings import declared, gathered
from pretrain.runs.yaml_files import read_yaml

FOLDER_OPTIONS = ("--config-dir", "-cd", "--config-path", "-cp")


def prepared(arguments: Sequence[str], kind: type, conf: Path, command: str) -> list[str]:
    """Return a command's arguments as Hydra is to read them.

    Parameters
    ----------
    arguments : sequence of str
        Arguments as the user wrote them.
    kind : type
        Dataclass of the command's settings.
    conf : Path
        Folder of configurations.
    command : str
        Name of the command's configuration.

    Raises
    ------
    UserError
        When a setting is given twice, a group is given something other than a name, braces change nothing, or a
        folder of configurations holds a file that is no YAML of sensible size.
    """
    names = dict(_names(kind))
    quoted = [_quoted(each, names) for each in arguments]
    with gathered() as problems:
        problems += _given_twice(arguments)
        problems += _misused(quoted, conf, groups_of(conf, command))
    for folder in _folders(arguments):
        for file in sorted(Path(folder).rglob("*.yaml")):
            read_yaml(file)
    return quoted


def settings_given(arguments: Sequence[str]) -> dict[str, str]:
    """Return the settings among a command's arguments by their dotted paths, with the values as they are written."""
    pairs = [each.partition("=") for each in arguments if "=" in each and not each.startswith(("-", "~"))]
    return {key.lstrip("+"): value for key, _, value in pairs}


def _names(kind: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the dotted path of each setting that is text, and whether it may be a list."""
    for own in (kind, *kind.__subclasses__()):
        for name, (hint, _) in declared(own).items():
            for plain in (split_marks(each)[0] for each in alternatives(split_marks(hint)[0])):
                item = split_marks(get_args(plain)[0])[0] if get_origin(plain) is list else plain
                if item is str:
                    yield f"{prefix}{name}", item is not plain
                elif is_settings(item):
                    yield from _names(item, f"{prefix}{name}.")


def _quoted(argument: str, names: dict[str, bool]) -> str:
    """Quote a name, which Hydra may read as a number or a list, and any value that its grammar rejects."""
    key, equals, value = argument.partition("=")
    bare = key.lstrip("+")
    if not equals or argument.startswith(("-", "~")) or value in ("", "null", "???"):
        return argument
    if bare in names and not value.startswith(("'", '"')):
        if names[bare] and re.fullmatch(r"\[[^'\"]*\]", value):
            items = [_in_quotes(item.strip()) for item in value[1:-1].split(",") if item.strip()]
            return f"{key}=[{','.join(items)}]"
        if names[bare] and value.startswith("["):
            return argument
        return f"{key}={_in_quotes(value)}"
    if _parsed(argument) is None and not value.startswith(("[", "{", "'", '"')):
        return f"{key}={_in_quotes(value)}"
    return argument


def _in_quotes(text: str) -> str:
    """Return text between quotes, with those in it escaped, and backslashes before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), text)
    return f"'{escaped}'"


def _parsed(argument: str) -> Any:
    """Return an argument as Hydra parses it; None if its grammar rejects it, or it is an option."""
    try:
        return None if argument.startswith("-") else OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _given_twice(arguments: Sequence[str]) -> Iterator[str]:
    """Yield a line for each setting that is given more than once; Hydra would take the last."""
    values = defaultdict(list)
    for argument in arguments:
        for key, value in settings_given([argument]).items():
            values[key].append(value)
    for key, given in values.items():
        if len(given) > 1:
            yield f"{key} is given more than once, as {' and '.join(given)}: give it once."


def _misused(arguments: Sequence[str], conf: Path, groups: Sequence[str]) -> Iterator[str]:
    """Yield a line for each group that is given no name, and for braces that change nothing."""
    for override in filter(None, map(_parsed, arguments)):
        key, value = override.key_or_group, override.value()
        if key in groups and not override.is_delete() and not isinstance(value, str):
            yield no_such_option(key, override.input_line.partition("=")[2], conf)
        elif value == {} and not override.is_add():
            yield (
                f"{key}={{}} would change nothing, since settings in braces are added to those that are there: give "
                f"settings, or take one away, as in ~{key}.NAME."
            )


def _folders(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the folders of configurations that the user names."""
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = argument.partition("=")
        if option in FOLDER_OPTIONS:
            yield value if equals else following
