"""Settings as typed objects, checked against their dataclasses.

A command's settings are a dataclass. Each field declares how it binds a resumed run. `typed` makes such an object from
a plain configuration, and `as_config` turns it back.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from enum import Enum
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pretrain.errors import UserError

Config = dict[str, Any]
T = TypeVar("T")
# The words for OmegaConf's names of types in messages.
TYPE_NAMES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
TYPE_NAMES["Union[int, float]"] = TYPE_NAMES["Float"]


class Resuming(Enum):
    """How a setting binds a run that is resumed."""

    SAME = "The setting changes what is computed, so it must be the same."
    GROWS = "A later call may extend or change it, and keeps the work that is finished."
    FREE = "The setting changes where or how the work is done, and not its result."


def setting(
    default: Any = MISSING, *, factory: Any = MISSING, resuming: Resuming = Resuming.SAME, path: bool = False
) -> Any:
    """Return a field of a dataclass of settings.

    Parameters
    ----------
    default, factory
        The default, or a function that makes it. A setting with neither is required.
    resuming : Resuming
        How the setting binds a resumed run.
    path : bool
        Whether the setting names a file or folder: a number is then a name, and ``~`` the home folder.
    """
    metadata = {"resuming": resuming, "path": path}
    return field(default=default, default_factory=factory, metadata=metadata)


def may_differ(settings: Any, prefix: str = "") -> list[str]:
    """Return the dotted paths of the settings in which a resumed run may differ."""
    free = []
    for each in fields(settings):
        path, value = f"{prefix}{each.name}", getattr(settings, each.name)
        if each.metadata.get("resuming", Resuming.SAME) is not Resuming.SAME:
            free.append(path)
        elif is_dataclass(value):
            free += may_differ(value, f"{path}.")
    return free


def as_config(settings: Any) -> Any:
    """Return settings as plain dicts, lists and values for `typed`; a class may define `to_config` for it."""
    if hasattr(settings, "to_config"):
        return settings.to_config()
    if is_dataclass(settings):
        return {each.name: as_config(getattr(settings, each.name)) for each in fields(settings)}
    if isinstance(settings, dict):
        return {key: as_config(value) for key, value in settings.items()}
    return [as_config(value) for value in settings] if isinstance(settings, list | tuple | range) else settings


def typed(kind: type[T], config: Config, where: str = "") -> T:
    """Return an object of a dataclass made from a configuration.

    Fields that are dataclasses, or dicts of them, are made in the same way. A class may define `from_config` for it.

    Parameters
    ----------
    kind : type
        A dataclass.
    config : dict
        Plain values under the names of the fields.
    where : str
        Dotted path of the configuration, for messages.

    Raises
    ------
    UserError
        When a setting is unknown, missing, of the wrong type, or rejected by the dataclass.
    """
    if not isinstance(config, dict):
        raise UserError(f"{where}={config}: give settings by their names, such as {{{fields(kind)[0].name}: ...}}.")  # type: ignore[arg-type]
    known = {each.name: each for each in fields(kind) if each.init}  # type: ignore[arg-type]
    if unknown := [key for key in config if key not in known]:
        raise no_such_setting(where, unknown[0], known)
    needed = [name for name, each in known.items() if each.default is each.default_factory is MISSING]
    if missing := [name for name in needed if config.get(name, "???") == "???"]:
        raise UserError(
            "; ".join(f"{_join(where, name)} is missing: give {_join(where, name)}=..." for name in missing)
        )
    hints = get_type_hints(kind)
    nested = {
        name: _nested(hints[name], config[name], _join(where, name)) for name in config if _is_nested(hints[name])
    }
    plain = {name: _as_path(known[name], value, where) for name, value in config.items() if name not in nested}
    with complaints_at(where):
        return kind(**_checked({name: hints[name] for name in plain}, plain, where), **nested)


def settle(settings: Any) -> None:
    """Check the fields of a new object of settings, however it was made, and take paths from the home folder on.

    Raises
    ------
    UserError
        When a value has the wrong type; the setting is named.
    """
    hints = get_type_hints(type(settings))
    known = {each.name: each for each in fields(settings) if each.init}
    for name in [name for name in known if _is_nested(hints[name])]:
        _require_instances(name, getattr(settings, name), hints[name])
    for name in [name for name, each in known.items() if each.metadata.get("path")]:
        object.__setattr__(settings, name, _named_path(name, getattr(settings, name), hints[name]))
    plain = {name: hints[name] for name in known if _is_plain(hints[name])}
    for name, value in _checked(plain, {name: getattr(settings, name) for name in plain}, "").items():
        object.__setattr__(settings, name, value)


def _named_path(name: str, value: Any, hint: Any) -> str | None:
    """Return a path as text, with the home folder in place of ``~``; None where its type allows that."""
    if value is None and NoneType in get_args(hint):
        return None
    if value is None or isinstance(value, bool | list | tuple | dict):
        raise UserError(f"{name}={value}: give the name of a file or folder.")
    return _expanded(name, value)


def _expanded(name: str, value: Any) -> str:
    """Return a path as text; an empty one, as from an unset variable, would mean the current folder."""
    if value == "":
        raise UserError(f"{name} is empty: give the name of a file or folder.")
    return os.path.expanduser(str(value))


def _require_instances(name: str, value: Any, hint: Any) -> None:
    """Raise a `UserError` unless a value is an object of a class of settings, or a dict of such."""
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise UserError(f"{name}={value}: give settings under the name of each.")
        for key, each in value.items():
            _require_instances(f"{name}.{key}", each, get_args(hint)[1])
    elif not isinstance(value, hint):
        raise UserError(f"{name}={value!r}: give an object of {hint.__name__}.")


def typed_keywords(function: Callable[..., Any], keywords: Config, where: str) -> Config:
    """Check keywords of a plain type or a dataclass against a function's annotations, and return them.

    Raises
    ------
    UserError
        When the function has no such keyword or a value has the wrong type.
    """
    known = inspect.signature(function, eval_str=True).parameters
    if unknown := [key for key in keywords if key not in known]:
        raise no_such_setting(where, unknown[0], known)
    kinds = {name: _dataclass_of(known[name].annotation) for name in keywords}
    nested: Config = {name: typed(kind, keywords[name], _join(where, name)) for name, kind in kinds.items() if kind}
    plain = {name: value for name, value in keywords.items() if name not in nested}
    return {**_checked({name: known[name].annotation for name in plain}, plain, where), **nested}


def _dataclass_of(hint: Any) -> type | None:
    """Return the dataclass in a type or union of types; None if there is none."""
    return next((kind for kind in (get_args(hint) or [hint]) if isinstance(kind, type) and is_dataclass(kind)), None)


def _checked(hints: Config, values: Config, where: str) -> Config:
    """Convert the values of plain types, and return all values."""
    checked = [(name, hint if _is_plain(hint) else Any) for name, hint in hints.items()]
    try:
        return vars(
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(make_dataclass("Values", checked)), values))
        )
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise no_such_setting(where, error.key, hints) from None
    except OmegaConfBaseException as error:
        raise UserError(_join(where, omegaconf_line(error))) from None


def _is_plain(hint: Any) -> bool:
    """Return whether OmegaConf can check a type: a number, text, a truth value, or a union of these."""
    return {*(get_args(hint) or [hint])} <= {bool, int, float, str, NoneType}


def _is_nested(hint: Any) -> bool:
    """Return whether values of a type are settings themselves, or a dict of settings."""
    inner = get_args(hint)[1] if get_origin(hint) is dict else hint
    return isinstance(inner, type) and (is_dataclass(inner) or hasattr(inner, "from_config"))


def _nested(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}={value}: give a name, and settings under it.")
        return {str(name): _nested(get_args(hint)[1], each, f"{where}.{name}") for name, each in value.items()}
    if hasattr(hint, "from_config"):
        return value if isinstance(value, hint) else hint.from_config(value, where)
    return value if isinstance(value, hint) else typed(hint, {} if value is None else value, where)


def _as_path(known: Field[Any], value: Any, where: str) -> Any:
    """Return a setting's value; for a path, the text with the home folder in place of ``~``."""
    named = known.metadata.get("path") and not isinstance(value, bool | list | dict | NoneType)
    return _expanded(_join(where, known.name), value) if named else value


def _join(where: str, name: str) -> str:
    return f"{where}.{name}".lstrip(".")


def omegaconf_line(error: OmegaConfBaseException) -> str:
    """Return OmegaConf's message in one line that starts with the setting, if it is known."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key:")), "")
    if wrong := re.fullmatch(
        r"Value '(.*)' of type '\w+' (?:could not be converted to|is incompatible with type hint) '?(.*?)'?", lines[0]
    ):
        return f"{key}={wrong[1]}: it must be {TYPE_NAMES.get(wrong[2], f'of type {wrong[2]}')}."
    return f"{key}: {lines[0]}" if key else " ".join(lines)


@contextmanager
def complaints_at(where: str) -> Iterator[None]:
    """Make errors raised in the block start with the configuration's path."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def no_such_setting(where: str, key: object, known: Iterable[str]) -> UserError:
    """Return the error for an unknown setting `key`, with the nearest known setting or all of them."""
    meant = get_close_matches(str(key), known, 1)
    advice = f"did you mean {meant[0]}?" if meant else f"choose among {', '.join(known)}."
    return UserError(f"{_join(where, str(key))}: there is no such setting; {advice}")
