"""Equal tuning: every arm tries the same settings at each label budget and runs with the best on validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from pretrain.errors import UserError, require_between
from pretrain.runs.typed_settings import Config, setting
from pretrain.training.recipes import Recipe


@dataclass(frozen=True)
class Tuning:
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

    trials: int | None = 0
    seeds: list[int] = field(default_factory=lambda: [1000])
    space: Any = setting(factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.trials is not None:
            require_between("tuning.trials", self.trials, 0)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"tuning.seeds={self.seeds}: give a list without repeats.")
        if not isinstance(self.space, dict | None):
            raise UserError(f"tuning.space={self.space}: give the values to try of each setting, under its name.")
        named = [name for name, part in (self.space or {}).items() if isinstance(part, dict)]
        loose = [name for name in self.space or {} if name not in named]
        if named and loose:
            raise UserError(f"tuning.space.{loose[0]} belongs in a space: give tuning.space.{named[0]}.{loose[0]}.")
        for part in self.spaces:
            for key, values in part.items():
                if not isinstance(values, list) or not values:
                    raise UserError(f"tuning.space.{key}={values}: give a list of values to try.")

    @property
    def spaces(self) -> list[dict[str, list[Any]]]:
        """The spaces that are searched one after the other, usually a single one."""
        space = self.space or {}
        parts = [part for part in space.values() if isinstance(part, dict)]
        return parts or [space]

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
