"""Hypothesis tests: the paired t test, Holm's correction, and the smallest detectable difference."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from pretrain.comparison.paired_differences import NAN, SIGNIFICANCE_LEVEL

# The smallest detectable difference is the one that a test finds with this probability.
POWER = 0.8


def paired_p(differences: ArrayLike) -> float:
    """Return the two-sided p value of a paired t test on differences, (n,), or 1 for fewer than two seeds.

    Equal differences have no spread, so t is not defined. The sign test takes its place.
    """
    x = np.asarray(differences, dtype=float)
    if len(x) < 2 or not x.any():
        return 1.0
    if np.ptp(x) == 0:
        return float(stats.binomtest(len(x), len(x)).pvalue)
    return float(stats.ttest_1samp(x, 0.0).pvalue)


def holm_corrected(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down method, in the order given.

    The probability that any true null hypothesis of the family is rejected then stays below the significance level.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    corrected = multipletests(p_values, method="holm")[1]
    return [float(p) for p in corrected]


@cache
def detectable_effect(n: int) -> float:
    """Return the true difference, in standard deviations, that n >= 2 seeds detect with 80% power at the 5% level.

    References
    ----------
    Cohen (1988), Statistical power analysis for the behavioral sciences, chapter 2.
    """
    solution = TTestPower().solve_power(nobs=n, alpha=SIGNIFICANCE_LEVEL, power=POWER, alternative="two-sided")
    return float(solution)


def smallest_detectable(differences: ArrayLike) -> float:
    """Return the true difference that this many seeds with this spread would detect four times in five.

    It holds for a single two-sided paired t test at the 5% level. Holm's correction over budgets needs a little more.
    Without spread (a single seed, or equal differences) it is NaN.
    """
    x = np.asarray(differences, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0:
        return NAN
    return float(detectable_effect(len(x)) * x.std(ddof=1))
