"""Messages of mistakes, each in one line that says what was wrong, where, and what to do."""

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from pretrain.runs.settings import omegaconf_line


def one_line(error: Exception) -> str:
    """Return what an error says in one line."""
    if isinstance(error, OverrideParseException):
        return f"{error.override}: write setting=value, and a list without blanks or in quotes, 'labels=[10, 20]'."
    if isinstance(error, OmegaConfBaseException):
        return omegaconf_line(error)
    lines = [line.strip() for line in str(error).split("Config search path:")[0].splitlines() if line.strip()]
    if isinstance(error, HydraException) and lines[0].startswith("Could not override"):
        added = "+" + lines[-1].partition("+")[2]  # Hydra's own advice
        new = added.startswith(("+arms.", "+tuning.space."))
        return f"{lines[0]} There is no such setting; " + (
            f"to add it, begin it with +, as in '{added}'." if new else "--help lists those there are."
        )
    return " ".join(lines)
