"""The one exception that a command shows as a single line."""


class UserError(Exception):
    """A mistake in what the user gave: what was wrong, where, and what to do, in one line."""
