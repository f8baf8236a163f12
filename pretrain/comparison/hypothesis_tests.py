"""Hypothesis tests: the paired t test, Holm's correction, and the smallest detectable difference."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from pretrain.comparison.crossed_effects import NAN, CrossedEffects
from pretrain.comparison.paired_differences import SIGNIFICANCE_LEVEL, effects_of

# The smallest detectable difference is the one that a test finds with this probability.
POWER = 0.8


def paired_p(differences: ArrayLike, images: np.ndarray | None = None) -> float:
    """Return the two-sided p value of the hypothesis that two arms are equally accurate.

    Over seeds alone it is that of a paired t test, or 1 for fewer than two seeds.

    Parameters
    ----------
    differences : array of float, (n,)
        One paired difference for each seed.
    images : array of float, (n, m), optional
        The same differences for each test image. With them, the hypothesis is about all seeds and all images.
    """
    return effects_of(differences, images).p


def holm_corrected(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down method, in the order given.

    The probability that any true null hypothesis of the family is rejected then stays below the significance level.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    corrected = multipletests(p_values, method="holm")[1]
    return [float(p) for p in corrected]


def detectable_difference(
    seeds: int, seed_variance: float, image_variance: float = 0.0, level: float = SIGNIFICANCE_LEVEL
) -> float:
    """Return the true difference that a two-sided test at a level finds with 80% power.

    Parameters
    ----------
    seeds : int
        Number of seeds, two or more.
    seed_variance : float
        Variance of the paired difference of a single seed over these images, above 0.
    image_variance : float
        Variance of the mean difference that is due to the images, and that more seeds do not remove.
    level : float
        Significance level of the test.

    References
    ----------
    Cohen (1988), Statistical power analysis for the behavioral sciences, chapter 2.
    """
    parts = CrossedEffects(seeds, 0, 0.0, seed_variance, image_variance)
    error = float(np.sqrt(parts.variance))
    return _detectable_effect(parts.degrees_of_freedom, parts.margin(1 - level) / error) * error


@cache
def _detectable_effect(degrees_of_freedom: float, critical: float) -> float:
    """Return the true mean, in standard errors, for which t is beyond a critical value with 80% probability."""
    # Beyond this number, t is normal to all digits that a report shows.
    df = min(degrees_of_freedom, 1e5)

    def missing(effect: float) -> float:
        # SciPy has no number for the far tail where it is next to 0.
        return float(stats.nct.sf(critical, df, effect) + np.nan_to_num(stats.nct.cdf(-critical, df, effect))) - POWER

    return float(optimize.brentq(missing, 0, critical + 10))


def smallest_detectable(effects: CrossedEffects, level: float = SIGNIFICANCE_LEVEL) -> float:
    """Return the true difference that these seeds and images, with their spread, would detect four times in five.

    It holds for a single test at the level. Holm's correction over budgets needs a little more. Without spread (a
    single seed, or equal differences) it is NaN.
    """
    if effects.seed_variance == 0:
        return NAN
    return detectable_difference(effects.seeds, effects.seed_variance, effects.image_variance, level)
