"""The one exception that a command shows as a single line."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: what was wrong, where, and what to do, in one line."""


def require_between(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise a `UserError` unless `value` lies from `low` to `high`, both included; NaN does not."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"{name}={value}: it must be {wanted}.")


def choose(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise a `UserError` that lists the `choices`, unless `value` is one of them."""
    if value not in choices:
        raise UserError(f"{option}={value} is not known; choose one of {', '.join(choices)}.")
