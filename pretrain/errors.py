"""The exception for mistakes of the user, which a command prints as one line."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the user's input, with a message that says what was wrong, where, and what to do."""


def require_between(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise a `UserError` unless `low <= value <= high`; NaN is rejected."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"{name}={value}: it must be {wanted}.")


def choose(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise a `UserError` that lists the `choices` unless `value` is one of them."""
    if value not in choices:
        raise UserError(f"{option}={value} is not known; choose one of {', '.join(choices)}.")
