"""Settings as typed objects, checked against their declarations.

A command's settings are a dataclass that derives from `Settings`. Each field declares its type and range, and how it
binds a resumed run. `typed` makes such an object from a plain configuration, and `as_config` turns it back.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, field, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pretrain.errors import UserError
from pretrain.runs.setting_types import (
    accepted,
    alternatives,
    in_words,
    is_settings,
    refusal,
    split_marks,
    value_text,
)

Config = dict[str, Any]
T = TypeVar("T")


class Resuming(Enum):
    """How a setting binds a run that is resumed."""

    SAME = "The setting changes what is computed, so it must be the same."
    GROWS = "A later call may extend or change it, and keeps the work that is finished."
    FREE = "The setting changes where or how the work is done, and not its result."


def setting(
    default: Any = MISSING, *, factory: Any = MISSING, resuming: Resuming = Resuming.SAME, kw_only: Any = MISSING
) -> Any:
    """Return a field of a dataclass of settings.

    Parameters
    ----------
    default, factory
        The default, or a function that makes it. A setting with neither is required.
    resuming : Resuming
        How the setting binds a resumed run.
    kw_only : bool, optional
        Whether it is given by its name only; by default as the class says.
    """
    return field(default=default, default_factory=factory, metadata={"resuming": resuming}, kw_only=kw_only)


class Settings:
    """The base of dataclasses of settings, which checks a new object however it was made.

    Raises
    ------
    UserError
        When a value does not have the declared type or range, or contradicts another. Each problem is a line that
        starts with its setting.
    """

    def __post_init__(self) -> None:
        """Check each field, fill in what depends on others, and look for contradictions."""
        values = {name: getattr(self, name) for name in declared(type(self))}
        for name, value in fields_accepted(type(self), values).items():
            object.__setattr__(self, name, value)
        self.fill_in()
        with gathered() as problems:
            for problem in self.contradictions():
                problems.append(problem)

    def fill_in(self) -> None:
        """Fill in the defaults that depend on other settings; does nothing unless overridden."""

    def contradictions(self) -> Iterator[str]:
        """Yield a line for each problem of settings that are in their ranges, but do not go together."""
        yield from ()


class Problems(list[str]):
    """The problems found so far, each a line that starts with a setting."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the problems raised in the block, and go on after it."""
        try:
            yield
        except UserError as error:
            self.append(str(error))


@contextmanager
def gathered() -> Iterator[Problems]:
    """Give a list of problems, and raise them as one `UserError` at the end of the block."""
    problems = Problems()
    with problems.noted():
        yield problems
    if problems:
        raise UserError("\n".join(problems))


def problems_within(where: str, check: Callable[..., object], *arguments: Any) -> list[str]:
    """Return the problems that a check raises, each a line that starts with its path; they lie within `where`."""
    try:
        with at(where):
            check(*arguments)
    except UserError as error:
        return str(error).splitlines()
    return []


def declared(kind: type) -> dict[str, tuple[Any, Field[Any]]]:
    """Return the type and the field of each setting of a dataclass, by name."""
    return _declared(kind)  # type: ignore[arg-type]


@cache
def _declared(kind: type) -> dict[str, tuple[Any, Field[Any]]]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: (hints[each.name], each) for each in fields(kind) if each.init}


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
        When settings are unknown, missing, of the wrong type, out of range, or contradict each other. Each is a line.
    """
    known = declared(kind)
    if not isinstance(config, dict):
        example = next(iter(known), "name")
        raise UserError(f"{where}={value_text(config)}: give settings by their names, such as {{{example}: ...}}.")
    with at(where), gathered() as problems:
        problems += [no_such_setting(key, known) for key in config if key not in known]
        needed = [name for name, (_, each) in known.items() if each.default is each.default_factory is MISSING]
        missing = [name for name in needed if config.get(name, "???") == "???"]
        problems += [f"{name} is missing: give {in_words(known[name][0])}." for name in missing]
        given = {name: value for name, value in config.items() if name in known and name not in missing}
        values = fields_accepted(kind, given)
    with at(where):
        return kind(**values)


def fields_accepted(kind: type, values: Config) -> Config:
    """Return values of fields of a dataclass as their declared types hold them.

    Raises
    ------
    UserError
        When there are values that their fields do not take, with a line for each.
    """
    taken, hints = {}, declared(kind)
    with gathered() as problems:
        for name, value in values.items():
            with problems.noted():
                taken[name] = _accepted(hints[name][0], value, name)
    return taken


def _accepted(hint: Any, value: Any, path: str) -> Any:
    """Return a value as a declared type holds it, where settings within are made from their configurations."""
    plain, _ = split_marks(hint)
    kind = next((each for each in alternatives(plain) if is_settings(each)), None)
    if kind and not (value is None and type(None) in alternatives(plain)):
        if isinstance(value, kind):
            return value
        return kind.from_config(value, path) if hasattr(kind, "from_config") else typed(kind, value, path)
    if get_origin(hint) is dict:
        return _dict_accepted(get_args(hint), value, path)
    try:
        return accepted(hint, value)
    except ValueError:
        raise refusal(path, value, hint) from None


def _dict_accepted(hints: tuple[Any, Any], value: Any, path: str) -> Config:
    """Return a dict whose keys and values are as their declared types hold them."""
    key_hint, hint = hints
    if not isinstance(value, dict):
        raise UserError(f"{path}={value_text(value)}: give a name, and settings under it.")
    taken = {}
    with gathered() as problems:
        for name, each in value.items():
            with problems.noted():
                taken[_accepted(key_hint, str(name), path)] = _accepted(hint, each, join(path, str(name)))
    return taken


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


def join(where: str, name: str) -> str:
    """Return the dotted path of a setting within a configuration."""
    return f"{where}.{name}".lstrip(".")


@contextmanager
def at(where: str) -> Iterator[None]:
    """Make each line of an error raised in the block start with the dotted path of its setting."""
    try:
        yield
    except UserError as error:
        raise UserError("\n".join(join(where, line) for line in str(error).splitlines())) from None


def no_such_setting(key: object, known: Iterable[str]) -> str:
    """Return the line for an unknown setting `key`, with the nearest known setting or all of them."""
    meant = get_close_matches(str(key), known, 1)
    advice = f"did you mean {meant[0]}?" if meant else f"choose among {', '.join(known)}."
    return f"{key}: there is no such setting; {advice}"
