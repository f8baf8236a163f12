"""Looks at the results of a growing comparison: how many seeds each has, and how p values and intervals allow for it.

A comparison that adds seeds until its result pleases would find a difference sooner or later. With ``seeds=auto`` it
is looked at after 5, 10, 20, ... seeds only. Every look tests at one level, which is so low that, without any
difference, all looks together give a false verdict 5 times in 100. Intervals at that level hold at all looks together
as well, so they hold whatever makes one stop.

References
----------
Pocock (1977), Group sequential methods in the design and analysis of clinical trials, Biometrika 64, on one level for
all looks.
Jennison and Turnbull (1989), Interim analyses: the repeated confidence interval approach, Journal of the Royal
Statistical Society B 51.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from pretrain.comparison.paired_differences import SEEDS_FOR_A_CLAIM, SIGNIFICANCE_LEVEL
from pretrain.runs.seeding import derive_seed

# Simulated comparisons for the level, so many that the 5% have a standard error of 0.04%. They take half a second.
SIMULATED = 300_000


@dataclass(frozen=True)
class Looks:
    """The looks at a comparison: a single one, at all of its seeds, unless it may go on.

    Attributes
    ----------
    seeds : tuple of int
        Number of seeds at each look, increasing.
    """

    seeds: tuple[int, ...]

    @property
    def level(self) -> float:
        """The level of the test at each look, and one minus the confidence of its intervals."""
        if len(self.seeds) == 1:
            return SIGNIFICANCE_LEVEL
        smallest = _smallest_p(self.seeds)
        # One less, so that p values up to this one are corrected to less than the significance level.
        return float(smallest[int(SIGNIFICANCE_LEVEL * (len(smallest) + 1)) - 2])

    def corrected(self, p: float) -> float:
        """Return the probability that, without a difference, any look gives a p value so small."""
        if len(self.seeds) == 1:
            return p
        smallest = _smallest_p(self.seeds)
        simulated = (1 + int(np.searchsorted(smallest, p, side="right"))) / (1 + len(smallest))
        # So rare an event as a tiny p value is not simulated; Bonferroni's bound is close there.
        return max(p, min(simulated, len(self.seeds) * p))


ONE_LOOK = Looks((SEEDS_FOR_A_CLAIM,))


def doubling_looks(most: int) -> Looks:
    """Return the looks after 5, 10, 20, ... seeds, with the last at `most`."""
    seeds = [SEEDS_FOR_A_CLAIM]
    while seeds[-1] < most:
        seeds.append(min(2 * seeds[-1], most))
    return Looks(tuple(seeds))


@cache
def _smallest_p(seeds: tuple[int, ...]) -> np.ndarray:
    """Return the smallest p value over the looks of simulated comparisons without a difference, sorted.

    Each look is a t test of differences with normal noise. Pocock's table takes the variance for known, and with five
    seeds his levels would give 5.3% instead of 5%. Where test images add a variance of their own, looks are more alike
    than here, since all have the same images, and false verdicts are fewer.
    """
    generator = np.random.default_rng(derive_seed(0, "looks", *seeds))
    total, squares = np.zeros(SIMULATED), np.zeros(SIMULATED)  # of the differences so far
    smallest = np.ones(SIMULATED)
    for n, new in zip(seeds, np.diff(seeds, prepend=0), strict=True):
        of_new = generator.normal(0, np.sqrt(new), SIMULATED)
        total += of_new
        squares += of_new**2 / new + (generator.chisquare(new - 1, SIMULATED) if new > 1 else 0)
        t = total / np.sqrt(n * (squares - total**2 / n) / (n - 1))
        np.minimum(smallest, 2 * stats.t.sf(np.abs(t), n - 1), out=smallest)
    return np.sort(smallest)
