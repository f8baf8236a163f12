"""Verdicts: each arm against the baseline over paired seeds, in numbers and in words."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pretrain.comparison.hypothesis_tests import holm_corrected, paired_p, smallest_detectable
from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.paired_differences import (
    SEEDS_FOR_A_CLAIM,
    SIGNIFICANCE_LEVEL,
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
        Names of the two arms.
    labels : int
        Label budget.
    difference : Estimate
        Accuracy of the arm minus that of the baseline, paired by seed, as a fraction of 1.
    bootstrap : (float, float)
        Bounds of the 95% bootstrap interval of the difference, beside its t interval.
    p, p_corrected : float
        Two-sided p value of the paired t test, as it is and after Holm's correction over the budgets.
    effect : float
        Mean difference in standard deviations of the differences, corrected for the number of seeds.
    detectable : float
        Smallest true difference that this many seeds with this spread detect four times in five, as a fraction of 1.
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
            bounds = f"A difference of more than {bound:.1f} points is unlikely"
            if np.isfinite(self.detectable):
                bounds += f"; one of less than {100 * self.detectable:.1f} points is easily missed"
            return f"{where}: no detectable difference, {figures}. {bounds}."
        return f"{where}: {self.verdict}, {figures}."


def verdict(difference: Estimate, p_corrected: float) -> str:
    """Return the verdict that a paired difference and its corrected p value support."""
    if difference.n < SEEDS_FOR_A_CLAIM:
        return "too few seeds"
    if p_corrected >= SIGNIFICANCE_LEVEL:
        return "no detectable difference"
    return "helps" if difference.mean > 0 else "hurts"


def compare_arms(results: pd.DataFrame, baseline: str) -> list[PairedComparison]:
    """Compare each arm with the baseline at each label budget, over the seeds that both have.

    The order of the rows changes no number.

    Parameters
    ----------
    results : DataFrame
        One row for each run, with the columns arm, labels, seed and test_accuracy.
    baseline : str
        Name of the arm that the others are compared with.

    Raises
    ------
    ValueError
        When an arm has two runs with the same labels and seed.
    """
    table = seed_table(results)
    paired: list[PairedComparison] = []
    for arm in [arm for arm in results["arm"].unique() if arm != baseline and {arm, baseline} <= set(table)]:
        # Rounding makes equal differences equal: those of floats are so only nearly.
        differences = (table[arm] - table[baseline]).dropna().round(12)
        budgets = {int(labels): group.to_numpy() for labels, group in differences.groupby(level="labels")}
        paired += _compare_at_budgets(str(arm), baseline, budgets)
    return paired


def _compare_at_budgets(arm: str, baseline: str, budgets: dict[int, np.ndarray]) -> list[PairedComparison]:
    """Compare an arm with the baseline by the paired differences at each budget, (n,), corrected over the budgets."""
    if not budgets:
        return []
    p_values = [paired_p(x) for x in budgets.values()]
    return [
        _paired_comparison(arm, baseline, labels, x, p, p_corrected)
        for (labels, x), p, p_corrected in zip(budgets.items(), p_values, holm_corrected(p_values), strict=True)
    ]


def _paired_comparison(
    arm: str, baseline: str, labels: int, x: np.ndarray, p: float, p_corrected: float
) -> PairedComparison:
    """Return all that is known of paired differences, (n,), with their p values."""
    difference = estimate(x)
    generator = np.random.default_rng(derive_seed(0, "bootstrap", arm, baseline, labels))
    return PairedComparison(
        arm=arm,
        baseline=baseline,
        labels=labels,
        difference=difference,
        bootstrap=bootstrap_interval(x, generator),
        p=p,
        p_corrected=p_corrected,
        effect=effect_size(x),
        detectable=smallest_detectable(x),
        verdict=verdict(difference, p_corrected),
    )


def arm_estimates(results: pd.DataFrame, column: str = "test_accuracy") -> dict[tuple[str, int], Estimate]:
    """Return the estimate of a column for each arm and label budget, over the runs that have a value in it."""
    groups = results.dropna(subset=column).groupby(["arm", "labels"], sort=False)[column]
    return {(str(arm), int(labels)): estimate(values) for (arm, labels), values in groups}  # type: ignore[misc, call-overload]


def as_json(
    results: pd.DataFrame, paired: list[PairedComparison], efficiencies: list[LabelEfficiency]
) -> dict[str, Any]:
    """Return all statistics as plain values for results.json, where NaN and infinities are null.

    In ``labels_needed``, 0 stands for fewer labels than the smallest budget and null for more than the largest. Both
    bounds are null where there are too few seeds for an interval.
    """
    arms = [{"arm": a, "labels": n, **asdict(e)} for (a, n), e in arm_estimates(results).items()]
    return {
        "arms": [_plain(row) for row in arms],
        "comparisons": [_plain(_paired_row(c)) for c in paired],
        "labels_needed": [
            _plain({**asdict(n), "fewer": n.fewer, "more": n.more, "sentence": n.sentence()}) for n in efficiencies
        ],
    }


def _paired_row(c: PairedComparison) -> dict[str, Any]:
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
