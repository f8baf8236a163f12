"""Settings in words: values, numbers of things and what an arm changes, as the methods text writes them."""

from collections.abc import Sequence
from typing import Any

from pretrain.runs.resumption import flatten
from pretrain.runs.typed_settings import Config


def value_in_words(value: Any) -> str:
    """Return the value of a setting as on a command line, and a list without brackets."""
    if isinstance(value, list):
        return ", ".join(map(value_in_words, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless there is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def enumeration(items: Sequence[object]) -> str:
    """Return items as a list in a sentence: "20", "20 and 50", "20, 50 and 200"."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last


def settings_in_words(changed: Config) -> str:
    """Return the settings that an arm changes, as on a command line; those of its own stack are described elsewhere."""
    flat = flatten({key: "its own" if key == "stack" else value for key, value in changed.items()})
    pairs = [f"{key.removeprefix('recipe.')}={value_in_words(value)}" for key, value in flat.items() if key]
    return ", ".join(pairs) or "no changes"
