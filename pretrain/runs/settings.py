"""Settings of plain values become typed objects, and a mistyped key is answered with the nearest one."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from typing import Any, get_args

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pretrain.errors import UserError

Config = dict[str, Any]


WANTED = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}  # by OmegaConf's name of a type


def omegaconf_line(error: OmegaConfBaseException) -> str:
    """Return what OmegaConf complains of in one line, beginning with the setting that it is about where it is named."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key:")), "")
    if wrong := re.fullmatch(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", lines[0]):
        return f"{key}={wrong[1]}: it must be {WANTED.get(wrong[2], f'of type {wrong[2]}')}."
    return f"{key}: {lines[0]}" if key else " ".join(lines)


@contextmanager
def complaints_at(where: str) -> Iterator[None]:
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


def typed(kind: type, config: Config, where: str = "") -> Any:
    """Return an object of a dataclass from a configuration, its types checked; `where` is the configuration's path.

    Raises
    ------
    UserError
        When a value has the wrong type; the setting is named.
    """
    try:
        with complaints_at(where):
            return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), config))
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise _no_such(where, error.key, [each.name for each in fields(kind)]) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{where}.{omegaconf_line(error)}".lstrip(".")) from None


def typed_keywords(function: Callable[..., Any], keywords: Config, where: str) -> Config:
    """Return keywords of a function, those of a plain type, or of a dataclass, checked against its annotations.

    Raises
    ------
    UserError
        When it has no such keyword, or a value has the wrong type; the setting is named.
    """
    known = inspect.signature(function, eval_str=True).parameters
    if unknown := [key for key in keywords if key not in known]:
        raise _no_such(where, unknown[0], known)
    checked = {bool, int, float, str, type(None)}
    options = {key: {*(get_args(known[key].annotation) or [known[key].annotation])} for key in keywords}
    nested = {
        key: kind for key, kinds in options.items() for kind in kinds if isinstance(kind, type) and is_dataclass(kind)
    }
    objects = {key: typed(kind, keywords[key], f"{where}.{key}") for key, kind in nested.items()}
    keyword_fields = [
        (key, known[key].annotation if kinds <= checked else Any) for key, kinds in options.items() if key not in nested
    ]
    plain = {key: value for key, value in keywords.items() if key not in nested}
    return vars(typed(make_dataclass("Keywords", keyword_fields), plain, where)) | objects
