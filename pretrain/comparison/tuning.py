"""Equal tuning: every arm tries the same settings at each label budget and runs with the best on validation images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

from pretrain.errors import UserError
from pretrain.runs.setting_types import NO_REPEATS, FromZero, value_text
from pretrain.runs.typed_settings import Config, Settings, setting
from pretrain.training.recipes import Recipe

Seeds = Annotated[list[FromZero], NO_REPEATS]


@dataclass(frozen=True)
class Tuning(Settings):
    """The search for settings that every arm gets.

    Attributes
    ----------
    trials : int, optional
        Number of combinations that each arm tries at each budget; 0 tries none, and None the whole space.
    seeds : list of int
        Seeds of the trials. The runs that count have other seeds, so that no arm is judged by the draws that chose its
        settings.
    space : dict of str to list, or dict of str to dict
        Values to combine of each fine-tuning setting, or several such spaces, each under a name of its own, which are
        searched one after the other.
    """

    trials: FromZero | None = 0
    seeds: Seeds = setting(factory=lambda: [1000])
    space: dict[str, Any] = setting(factory=dict)

    def contradictions(self) -> Iterator[str]:
        """Yield a line for each setting whose values to try are no list, or that belongs in another space."""
        named = [name for name, part in self.space.items() if isinstance(part, dict)]
        for name in (name for name in self.space if named and name not in named):
            yield f"space.{name} belongs in a space: give tuning.space.{named[0]}.{name}."
        for where, part in [(f"space.{name}", self.space[name]) for name in named] or [("space", self.space)]:
            for key, values in part.items():
                if not isinstance(values, list) or not values:
                    yield f"{where}.{key}={value_text(values)}: give a list of values to try."

    @property
    def spaces(self) -> list[dict[str, list[Any]]]:
        """The spaces that are searched one after the other, usually a single one."""
        parts = [part for part in self.space.values() if isinstance(part, dict)]
        return parts or [self.space]

    def candidates(self) -> list[Config]:
        """Return the settings to try, the same for every arm: the whole space, or a random part of it."""
        if self.trials == 0:
            return []
        # These imports are slow, and refusing a wrong setting needs neither.
        from sklearn.model_selection import ParameterGrid, ParameterSampler

        from pretrain.runs.seeding import derive_seed

        grid = ParameterGrid(self.spaces)
        if self.trials is None or self.trials >= len(grid):
            return list(grid)
        return list(ParameterSampler(self.spaces, self.trials, random_state=derive_seed(0, "tuning") % 2**32))


def decisive(recipe: Recipe) -> Config:
    """Return the settings that decide the result of fine-tuning: without steps, only how the head is fitted."""
    return vars(recipe) if recipe.steps else {"head": recipe.head, "flip": recipe.flip}


def best_candidate(accuracies: Mapping[int, Sequence[float | None]]) -> int:
    """Return the candidate with the best mean validation accuracy over the seeds, the first of equals.

    Parameters
    ----------
    accuracies : mapping of int to sequence of float or None
        Accuracies of the trials of each candidate. None stands for a failed trial, which rules its candidate out.

    Raises
    ------
    UserError
        When every candidate is ruled out.
    """
    measured = {k: [value for value in values if value is not None] for k, values in accuracies.items()}
    whole = {k: fmean(values) for k, values in measured.items() if len(values) == len(accuracies[k])}
    if not whole:
        raise UserError("every trial failed: try other settings in tuning.space, such as lower learning rates.")
    return max(whole, key=lambda k: (whole[k], -k))
