"""Did it help, and by how much? Each arm against a baseline over paired seeds, and a verdict in words."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from pretrain.comparison.hypothesis_tests import paired_p, smallest_detectable
from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.paired_differences import (
    ENOUGH,
    LEVEL,
    Estimate,
    bootstrap_interval,
    effect_size,
    estimate,
    seed_table,
)
from pretrain.runs.seeding import derive_seed


@dataclass(frozen=True)
class PairedComparison:
    """An arm against the baseline at one label budget.

    Attributes
    ----------
    arm, baseline : str
        Who is compared.
    labels : int
        The budget.
    difference : Estimate
        Accuracy of the arm minus that of the baseline, paired by seed, as a share of 1.
    bootstrap : (float, float)
        The difference's 95% interval by bootstrap, beside the t interval.
    p, p_corrected : float
        Of the paired t test, two-sided, and after Holm's correction over the budgets.
    effect : float
        The difference in standard deviations of the differences, corrected for the number of seeds.
    detectable : float
        The smallest true difference that so many seeds with such a spread find four times in five, as a share of 1.
    verdict : str
        "helps", "hurts", "no detectable difference" or "too few seeds".
    """

    arm: str
    baseline: str
    labels: int
    difference: Estimate
    bootstrap: tuple[float, float]
    p: float
    p_corrected: float
    effect: float
    detectable: float
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
            bounds = f"one beyond {bound:.1f} points is unlikely"
            if np.isfinite(self.detectable):
                bounds += f", and one below {100 * self.detectable:.1f} is easily missed"
            return f"{where}: no detectable difference, {figures}; {bounds}."
        return f"{where}: {self.verdict}, {figures}."


def verdict(difference: Estimate, p_corrected: float) -> str:
    """Return what may be said of a paired difference."""
    if difference.n < ENOUGH:
        return "too few seeds"
    if p_corrected >= LEVEL:
        return "no detectable difference"
    return "helps" if difference.mean > 0 else "hurts"


def compare_arms(results: pd.DataFrame, baseline: str) -> list[PairedComparison]:
    """Compare each arm with the baseline at each label budget, over the seeds that both have.

    The same results, in any order of rows, give the same numbers.

    Parameters
    ----------
    results : DataFrame
        A row a run, with the columns arm, labels, seed and test_accuracy.
    baseline : str
        An arm.

    Raises
    ------
    ValueError
        When an arm has two runs with the same labels and seed.
    """
    table = seed_table(results)
    comparisons: list[PairedComparison] = []
    for arm in [arm for arm in results["arm"].unique() if arm != baseline and {arm, baseline} <= set(table)]:
        # Rounded, since the difference of two fractions as floats is only nearly the same for each seed.
        differences = (table[arm] - table[baseline]).dropna().round(12)
        budgets = {int(labels): group.to_numpy() for labels, group in differences.groupby(level="labels")}
        comparisons += _compare(str(arm), baseline, budgets)
    return comparisons


def _compare(arm: str, baseline: str, budgets: dict[int, np.ndarray]) -> list[PairedComparison]:
    """Compare by the paired differences of each budget, (n,); Holm's correction is over the budgets."""
    if not budgets:
        return []
    raw = [paired_p(x) for x in budgets.values()]
    corrected = multipletests(raw, method="holm")[1]
    comparisons = []
    for (labels, x), p, holm in zip(budgets.items(), raw, map(float, corrected), strict=True):
        d, generator = estimate(x), np.random.default_rng(derive_seed(0, "bootstrap", arm, baseline, labels))
        size, detectable = effect_size(x), smallest_detectable(x)
        interval, said = bootstrap_interval(x, generator), verdict(d, holm)
        comparisons.append(PairedComparison(arm, baseline, labels, d, interval, p, holm, size, detectable, said))
    return comparisons


def arm_estimates(results: pd.DataFrame, column: str = "test_accuracy") -> dict[tuple[str, int], Estimate]:
    """Return the estimate of a column for each arm and label budget, over the runs that have a value there."""
    groups = results.dropna(subset=column).groupby(["arm", "labels"], sort=False)[column]
    return {(str(arm), int(labels)): estimate(values) for (arm, labels), values in groups}  # type: ignore[misc, call-overload]


def as_json(
    results: pd.DataFrame, comparisons: list[PairedComparison], needed: list[LabelEfficiency]
) -> dict[str, Any]:
    """Return all statistics as plain values, for results.json; NaN and infinities become null.

    Of the labels needed, 0 stands for fewer than the smallest budget and null for more than the largest; both bounds
    are null where there are too few seeds for an interval.
    """
    arms = [{"arm": a, "labels": n, **asdict(e)} for (a, n), e in arm_estimates(results).items()]
    return {
        "arms": [_plain(row) for row in arms],
        "comparisons": [_plain(_comparison_row(c)) for c in comparisons],
        "labels_needed": [
            _plain({**asdict(n), "fewer": n.fewer, "more": n.more, "sentence": n.sentence()}) for n in needed
        ],
    }


def _comparison_row(c: PairedComparison) -> dict[str, Any]:
    return {
        "arm": c.arm,
        "baseline": c.baseline,
        "labels": c.labels,
        **asdict(c.difference),
        "bootstrap_low": c.bootstrap[0],
        "bootstrap_high": c.bootstrap[1],
        "p": c.p,
        "p_holm": c.p_corrected,
        "effect_size": c.effect,
        "smallest_detectable": c.detectable,
        "verdict": c.verdict,
        "sentence": c.sentence(),
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
