"""The types of settings with their ranges, declared beside each setting, and how they are checked and put in words."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pretrain.errors import UserError

# Weights are float32 and seeds int64: what exceeds these cannot be meant.
GREATEST_FLOAT, GREATEST_INT = 1e38, 2**63 - 1
# No setting is of several lines, or colors a terminal.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LONGEST_VALUE = 60  # characters of a value in a message
LONGEST_NAME = 100  # characters of a name


@dataclass(frozen=True)
class In:
    """The range of a number: greater than `gt` or at least `ge`, and less than `lt` or at most `le`."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in the range."""
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        """Return the range in words."""
        if self.ge is not None and self.le is not None:
            return f"from {self.ge:g} to {self.le:g}"
        ends = (("above", self.gt), ("at least", self.ge), ("below", self.lt), ("at most", self.le))
        return " and ".join(f"{words} {end:g}" for words, end in ends if end is not None)


@dataclass(frozen=True)
class OnlyWith:
    """A setting has an effect only if another has one of some values.

    Attributes
    ----------
    other : str
        The other setting; in the same class, or by a dotted path in a block of it.
    values : tuple
        The values of the other setting.
    """

    other: str
    values: tuple[Any, ...]

    def __init__(self, other: str, *values: Any):
        object.__setattr__(self, "other", other)
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Form:
    """What text or a list must be besides: `check` returns whether it is, and `words` says it."""

    words: str
    check: Callable[[Any], bool]

    def __contains__(self, value: Any) -> bool:
        """Return whether text or a list is so."""
        return self.check(value)

    def __str__(self) -> str:
        """Return the form in words."""
        return self.words


def _is_plain_name(text: str) -> bool:
    return 0 < len(text) <= LONGEST_NAME and text == text.strip() and text[0] != "." and not {*text} & {*"/\\"}


# A list, or one item instead of a list of it alone; null stands for none.
ONE_OR_MORE = Form("", lambda items: True)
NO_REPEATS = Form("of one or more without repeats", lambda items: 0 < len(items) == len({*map(str, items)}))
ANY_WITHOUT_REPEATS = Form("without repeats", lambda items: len(items) == len({*map(str, items)}))
TWO = Form("of two", lambda items: len(items) == 2)
# A file or folder; a number is then a name, and ~ the home folder.
FILE = Form("the name of a file or folder", bool)
# Names of folders that a run makes stay within its own.
NAME = Form(f"a name of up to {LONGEST_NAME} characters without / or \\ that does not begin with a dot", _is_plain_name)

Count = Annotated[int, In(ge=1)]
FromZero = Annotated[int, In(ge=0)]
NonNegative = Annotated[float, In(ge=0)]
Share = Annotated[float, In(ge=0, le=1)]
FileName = Annotated[str, FILE]
PlainName = Annotated[str, NAME]


def split_marks(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type within ``Annotated``, and the marks that are beside it."""
    return (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type that there is."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def accepted(hint: Any, value: Any) -> Any:
    """Return a plain value as its declared type holds it: a whole number as a float, a path as text.

    Raises
    ------
    ValueError
        When the type does not take the value, or the value is out of its range.
    """
    hint, marks = split_marks(hint)
    for each in alternatives(hint) if len(alternatives(hint)) > 1 else ():
        try:
            return accepted(each, value)
        except ValueError:
            continue
    if ONE_OR_MORE in marks and not isinstance(value, list | tuple):
        value = [] if value is None else [value]
    taken = _taken(hint, value, FILE in marks)
    if not all(taken in mark for mark in marks if isinstance(mark, In | Form)):
        raise ValueError
    return os.path.expanduser(taken) if FILE in marks else taken


def _taken(hint: Any, value: Any, is_file: bool) -> Any:
    """Return a value as a type holds it, whatever its range."""
    origin, boolean = get_origin(hint), isinstance(value, bool)
    if hint is Any or (isinstance(hint, type) and hint not in (int, float, str) and isinstance(value, hint)):
        return value
    if hint is int and isinstance(value, Integral) and not boolean and abs(int(value)) <= GREATEST_INT:
        return int(value)
    if hint is float and isinstance(value, Real) and not boolean and -GREATEST_FLOAT <= value <= GREATEST_FLOAT:  # type: ignore[operator]
        return float(value)
    if hint is str and isinstance(value, str | (os.PathLike | int | float if is_file else str)) and not boolean:
        text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
        if not CONTROL_CHARACTERS.search(text):
            return text
    if origin is Literal and not boolean and not isinstance(value, list | dict) and value in get_args(hint):
        return value
    if origin is list and isinstance(value, list | tuple | range):
        return [accepted(get_args(hint)[0], each) for each in value]
    raise ValueError


def in_words(hint: Any) -> str:
    """Return what a setting of a type may be, such as "a number from 0 to 1" or "true or false, or null"."""
    hint, marks = split_marks(hint)
    if len(alternatives(hint)) > 1:
        return ", or ".join(map(in_words, alternatives(hint)))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if FILE in marks or NAME in marks:
        return str(marks[0])
    if ONE_OR_MORE in marks:
        return f"{in_words(get_args(hint)[0])}, or a list of them"
    named = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    words = "a list" if get_origin(hint) is list else named.get(hint, "settings by name")
    words = " ".join([words, *(str(mark) for mark in marks if isinstance(mark, In | Form))])
    return f"{words}, each {in_words(get_args(hint)[0])}" if get_origin(hint) is list else words


def refusal(path: str, value: Any, hint: Any) -> UserError:
    """Return the error for a value that a setting's type does not take."""
    given = value_text(value)
    if get_origin(split_marks(hint)[0]) is Literal and isinstance(value, str):
        choices = ", ".join(map(str, get_args(split_marks(hint)[0])))
        return UserError(f"{path}={given} is not known; choose one of {choices}.")
    return UserError(f"{path}={given}: it must be {in_words(hint)}.")


def value_text(value: Any) -> str:
    """Return a value as on the command line, in one line and shortened if it is long."""
    text = {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | NoneType) else str(value)
    text = CONTROL_CHARACTERS.sub(" ", text)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def is_settings(hint: Any) -> bool:
    """Return whether values of a type are settings themselves."""
    return isinstance(hint, type) and (is_dataclass(hint) or hasattr(hint, "from_config"))
