"""Did it help, and by how much? Paired differences over seeds, their intervals, and a verdict in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests

ENOUGH = 5  # seeds for a claim
LEVEL = 0.05  # of the test


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds with its 95% t interval; NaN bounds for a single seed."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline at one label budget.

    Attributes
    ----------
    arm, baseline : str
        Who is compared.
    labels : int
        The budget.
    difference : Estimate
        Accuracy of the arm minus that of the baseline, paired by seed, as a share of 1.
    p, p_corrected : float
        Of the paired t test, two-sided, and after Holm's correction over the budgets.
    verdict : str
        "helps", "hurts", "no detectable difference" or "too few seeds".
    """

    arm: str
    baseline: str
    labels: int
    difference: Estimate
    p: float
    p_corrected: float
    verdict: str

    def sentence(self) -> str:
        """Return the verdict in words, with its numbers."""
        d = self.difference
        where = f"{self.arm} against {self.baseline}, {self.labels:,} labels"
        figures = f"{100 * d.mean:+.2f} points"
        if d.n > 1:
            figures += f" (95% interval {100 * d.low:+.2f} to {100 * d.high:+.2f}, n = {d.n}"
            figures += f", corrected p = {self.p_corrected:.2g})"
        if self.verdict == "too few seeds":
            return f"{where}: too few seeds for a claim; {figures}."
        if self.verdict == "no detectable difference":
            bound = 100 * max(abs(d.low), abs(d.high))
            return f"{where}: no detectable difference, {figures}; one beyond {bound:.1f} points is unlikely."
        return f"{where}: {self.verdict}, {figures}."


def estimate(values: ArrayLike) -> Estimate:
    """Return the mean of values, one for each seed, and its 95% interval by Student's t."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Estimate(len(x), float(x.mean()), float("nan"), float("nan"))
    if np.ptp(x) == 0:
        return Estimate(len(x), float(x[0]), float(x[0]), float(x[0]))
    low, high = stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    return Estimate(len(x), float(x.mean()), float(low), float(high))


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


def verdict(difference: Estimate, p_corrected: float) -> str:
    """Return what may be said of a paired difference."""
    if difference.n < ENOUGH:
        return "too few seeds"
    if p_corrected >= LEVEL:
        return "no detectable difference"
    return "helps" if difference.mean > 0 else "hurts"


def compare_arms(results: pd.DataFrame, baseline: str) -> list[Comparison]:
    """Compare each arm with the baseline at each label budget, over the seeds that both have.

    Parameters
    ----------
    results : DataFrame
        A row a run, with the columns arm, labels, seed and test_accuracy.
    baseline : str
        An arm.
    """
    comparisons = []
    table = results.pivot_table(index=["labels", "seed"], columns="arm", values="test_accuracy")
    for arm in [arm for arm in results["arm"].unique() if arm != baseline and baseline in table]:
        differences = (table[arm] - table[baseline]).dropna()
        budgets = [(labels, group.to_numpy()) for labels, group in differences.groupby(level="labels")]
        if not budgets:
            continue
        p = [paired_p(values) for _, values in budgets]
        corrected = multipletests(p, method="holm")[1]
        for (labels, values), raw, holm in zip(budgets, p, corrected, strict=True):
            d = estimate(values)
            comparisons.append(Comparison(arm, baseline, int(labels), d, raw, float(holm), verdict(d, float(holm))))
    return comparisons


def arm_estimates(results: pd.DataFrame, column: str = "test_accuracy") -> dict[tuple[str, int], Estimate]:
    """Return the estimate of a column for each arm and label budget."""
    groups = results.groupby(["arm", "labels"], sort=False)[column]
    return {(str(arm), int(labels)): estimate(values) for (arm, labels), values in groups}  # type: ignore[misc, call-overload]


def as_json(results: pd.DataFrame, comparisons: list[Comparison]) -> dict[str, Any]:
    """Return all statistics as plain values, for results.json; NaN becomes null."""

    def plain(e: Estimate) -> dict[str, Any]:
        values = {"n": e.n, "mean": e.mean, "low": e.low, "high": e.high}
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()}

    return {
        "arms": [{"arm": a, "labels": n, **plain(e)} for (a, n), e in arm_estimates(results).items()],
        "comparisons": [
            {
                "arm": c.arm,
                "baseline": c.baseline,
                "labels": c.labels,
                **plain(c.difference),
                "p": c.p,
                "p_holm": c.p_corrected,
                "verdict": c.verdict,
                "sentence": c.sentence(),
            }
            for c in comparisons
        ],
    }
