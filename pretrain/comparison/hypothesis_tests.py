"""Tests of paired differences, and the difference that they would find."""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.power import TTestPower

from pretrain.comparison.paired_differences import LEVEL, NAN

POWER = 0.8  # with which the smallest detectable difference is found


def paired_p(differences: ArrayLike) -> float:
    """Return the two-sided p value of a paired t test, from the differences; 1 when there are fewer than two.

    Where all differences are the same, t has no spread to measure them by, and the sign test stands in.
    """
    x = np.asarray(differences, dtype=float)
    if len(x) < 2 or not x.any():
        return 1.0
    if np.ptp(x) == 0:
        return float(stats.binomtest(len(x), len(x)).pvalue)
    return float(stats.ttest_1samp(x, 0.0).pvalue)


@cache
def detectable_effect(n: int) -> float:
    """Return the true difference, in standard deviations, that n >= 2 seeds find with 80% power at the 5% level."""
    return float(TTestPower().solve_power(nobs=n, alpha=LEVEL, power=POWER, alternative="two-sided"))


def smallest_detectable(differences: ArrayLike) -> float:
    """Return the true difference that as many seeds with such a spread would find four times in five.

    It is that of one two-sided paired t test at the 5% level; Holm's correction over budgets asks for a little more.
    NaN where there is no spread to go by: for a single seed, and where all differences are the same.
    """
    x = np.asarray(differences, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0:
        return NAN
    return float(detectable_effect(len(x)) * x.std(ddof=1))
