"""Verdicts: each arm against the baseline over paired seeds, in numbers and in words."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pretrain.comparison.crossed_effects import CrossedEffects
from pretrain.comparison.hypothesis_tests import holm_corrected, smallest_detectable
from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.paired_differences import (
    SEEDS_FOR_A_CLAIM,
    SIGNIFICANCE_LEVEL,
    Estimate,
    as_estimate,
    by_image,
    differences_by_budget,
    effect_size,
    estimate,
)
from pretrain.comparison.sequential_looks import ONE_LOOK, Looks


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
    p, p_corrected : float
        Two-sided p value, as it is and corrected for the looks and, by Holm's method, over the budgets. It is about new
        seeds and new test images where all runs kept their predictions, or else about new seeds alone.
    effect : float
        Mean difference in standard deviations of the differences, corrected for the number of seeds.
    detectable : float
        Smallest true difference that these seeds and images detect four times in five, as a fraction of 1.
    verdict : str
        "helps", "hurts", "no detectable difference" or "too few seeds".
    """

    arm: str
    baseline: str
    labels: int
    difference: Estimate
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
            what = "95% interval" if d.new_images is None else "95% interval for new seeds and images"
            figures += f" ({what} {_points(*d.claimed)}, n = {d.n}"
            figures += f", corrected p = {self.p_corrected:.2g})"
        if self.verdict == "too few seeds":
            return f"{where}: too few seeds for a claim; {figures}."
        if self.verdict == "no detectable difference":
            bound = 100 * max(map(abs, d.claimed))
            bounds = f"A difference of more than {bound:.1f} points is unlikely"
            if np.isfinite(self.detectable):
                bounds += f"; one of less than {100 * self.detectable:.1f} points is easily missed"
            if d.new_images and d.low * d.high > 0:
                bounds += f". On these very test images, new seeds would give {_points(d.low, d.high)}"
            return f"{where}: no detectable difference, {figures}. {bounds}."
        return f"{where}: {self.verdict}, {figures}."


def _points(low: float, high: float) -> str:
    return f"{100 * low:+.2f} to {100 * high:+.2f}"


def verdict(difference: Estimate, p_corrected: float) -> str:
    """Return the verdict that a paired difference and its corrected p value support."""
    if difference.n < SEEDS_FOR_A_CLAIM:
        return "too few seeds"
    if p_corrected >= SIGNIFICANCE_LEVEL:
        return "no detectable difference"
    return "helps" if difference.mean > 0 else "hurts"


def compare_arms(results: pd.DataFrame, baseline: str, looks: Looks = ONE_LOOK) -> list[PairedComparison]:
    """Compare each arm with the baseline at each label budget, over the seeds that both have.

    Verdicts are about new seeds and new test images where all these runs kept their predictions, or else about new
    seeds alone. The order of the rows changes no number.

    Parameters
    ----------
    results : DataFrame
        One row for each run, with the columns arm, labels, seed and test_accuracy, and where there are predictions
        ``correct``: whether each test image was classified correctly, (m,), bool, or None.
    baseline : str
        Name of the arm that the others are compared with.
    looks : Looks
        Looks at the results that p values and intervals allow for.

    Raises
    ------
    ValueError
        When an arm has two runs with the same labels and seed.
    """
    paired: list[PairedComparison] = []
    for arm in [arm for arm in results["arm"].unique() if arm != baseline]:
        paired += _compare_at_budgets(str(arm), baseline, differences_by_budget(results, arm, baseline), looks)
    return paired


def _compare_at_budgets(
    arm: str, baseline: str, budgets: dict[int, tuple[np.ndarray, CrossedEffects]], looks: Looks
) -> list[PairedComparison]:
    """Compare an arm with the baseline by what `differences_by_budget` found at each budget, corrected over budgets."""
    if not budgets:
        return []
    corrected = holm_corrected([looks.corrected(effects.p) for _, effects in budgets.values()])
    compared = []
    for (labels, (x, effects)), p_corrected in zip(budgets.items(), corrected, strict=True):
        difference = as_estimate(effects, looks.level)
        said, detectable = verdict(difference, p_corrected), smallest_detectable(effects, looks.level)
        estimates = difference, effects.p, p_corrected, effect_size(x), detectable
        compared.append(PairedComparison(arm, baseline, labels, *estimates, said))
    return compared


def arm_estimates(results: pd.DataFrame, column: str = "test_accuracy") -> dict[tuple[str, int], Estimate]:
    """Return the estimate of a column for each arm and label budget, over the runs that have a value in it."""
    estimates = {}
    for (arm, labels), runs in results.dropna(subset=column).groupby(["arm", "labels"], sort=False):  # type: ignore[misc]
        kept = column == "test_accuracy" and "correct" in runs
        estimates[str(arm), int(labels)] = estimate(runs[column], by_image(runs["correct"]) if kept else None)  # type: ignore[call-overload]
    return estimates


def as_json(
    results: pd.DataFrame, paired: list[PairedComparison], efficiencies: list[LabelEfficiency]
) -> dict[str, Any]:
    """Return all statistics as plain values for results.json, where NaN and infinities are null.

    Bounds are ``low`` and ``high`` for new seeds, and ``low_new_images`` and ``high_new_images`` for new seeds and new
    test images, null where runs kept no predictions. In ``labels_needed``, 0 stands for fewer labels than the smallest
    budget and null for more than the largest. Both bounds are null where there are too few seeds for an interval.
    """
    arms = [{"arm": a, "labels": n, **_estimate_row(e)} for (a, n), e in arm_estimates(results).items()]
    return {
        "arms": [_plain(row) for row in arms],
        "comparisons": [_plain(_paired_row(c)) for c in paired],
        "labels_needed": [
            _plain({**asdict(n), "fewer": n.fewer, "more": n.more, "sentence": n.sentence()}) for n in efficiencies
        ],
    }


def _estimate_row(e: Estimate) -> dict[str, Any]:
    low, high = e.new_images or (None, None)
    return {"n": e.n, "mean": e.mean, "low": e.low, "high": e.high, "low_new_images": low, "high_new_images": high}


def _paired_row(c: PairedComparison) -> dict[str, Any]:
    return {
        "arm": c.arm,
        "baseline": c.baseline,
        "labels": c.labels,
        **_estimate_row(c.difference),
        "p": c.p,
        "p_holm": c.p_corrected,
        "effect_size": c.effect,
        "smallest_detectable": c.detectable,
        "verdict": c.verdict,
        "sentence": c.sentence(),
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
