"""The compute frontier: from which total compute on, if at all, an arm is better than the baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from pretrain.comparison.compute_curves import PairedCurves, paired_curves
from pretrain.comparison.hypothesis_tests import holm_corrected
from pretrain.comparison.paired_differences import SEEDS_FOR_A_CLAIM, SIGNIFICANCE_LEVEL, Estimate, as_estimate
from pretrain.comparison.sequential_looks import ONE_LOOK, Looks

# The differences are looked at with this many total computes, beside those that were run.
GRID = 65

# The verdict by those with the least and with the most compute that both arms were run with.
VERDICTS = {
    ("pays", "pays"): "pays",
    ("pays", "unclear"): "pays up to",
    ("pays", "hurts"): "pays up to",
    ("unclear", "pays"): "pays from",
    ("unclear", "unclear"): "no detectable difference",
    ("unclear", "hurts"): "hurts from",
    ("hurts", "pays"): "pays from",
    ("hurts", "unclear"): "hurts up to",
    ("hurts", "hurts"): "hurts",
}


@dataclass(frozen=True)
class Difference:
    """Accuracy of an arm minus that of the baseline, both with the same total compute, paired by seed and by image.

    Attributes
    ----------
    total : float
        Total compute in floating-point operations.
    estimate : Estimate
        Difference as a fraction of 1.
    p, p_corrected : float
        Two-sided p value, as it is and corrected for the looks and, by Holm's method, over the label budgets and both
        ends of the overlap. It is about new seeds and new test images where all runs kept their predictions.
    """

    total: float
    estimate: Estimate
    p: float
    p_corrected: float

    @property
    def verdict(self) -> str:
        """One of "pays", "hurts" and "unclear"."""
        if self.p_corrected >= SIGNIFICANCE_LEVEL:
            return "unclear"
        return "pays" if self.estimate.mean > 0 else "hurts"


@dataclass(frozen=True)
class ComputeFrontier:
    """An arm against the baseline over total compute, at one label budget and with one charge for pretraining.

    Attributes
    ----------
    arm, baseline : str
        Names of the two arms.
    labels, seeds : int
        Label budget, and number of seeds with all runs of both arms.
    shared_by : int
        Number of trainings that share one pretraining: 1 where it is charged in full, and 0 where neither arm has any.
    arm_range, baseline_range : (float, float)
        Least and most total compute of the runs of each.
    ends : tuple of Difference
        Differences with the least and the most compute that both were run with; a single one where these are equal, and
        none where the curves do not overlap.
    crossings : tuple of float
        Total computes where the curves cross.
    unclear : tuple of (float, float)
        Total computes whose difference has 0 in its 95% interval: a 95% confidence set for where the curves cross.
    gap : Estimate or None
        Where the curves do not overlap, the difference between the runs that are nearest in compute.
    enough : float or None
        Where they do not, the multiple of the steps with which the cheaper arm would reach the other, if it has any.
    """

    arm: str
    baseline: str
    labels: int
    seeds: int
    shared_by: int
    arm_range: tuple[float, float]
    baseline_range: tuple[float, float]
    ends: tuple[Difference, ...]
    crossings: tuple[float, ...]
    unclear: tuple[tuple[float, float], ...]
    gap: Estimate | None
    enough: float | None

    @property
    def verdict(self) -> str:
        """A value of `VERDICTS`, "not comparable", or "too few seeds"."""
        if not self.ends:
            return "not comparable"
        if self.seeds < SEEDS_FOR_A_CLAIM:
            return "too few seeds"
        return VERDICTS[self.ends[0].verdict, self.ends[-1].verdict]

    @property
    def crossing(self) -> float:
        """Total compute from which on, or up to which, the verdict holds; an end of the overlap where none is nearer.

        It is the crossing next to the end that the verdict is about.
        """
        least, most = self.ends[0].total, self.ends[-1].total
        if self.verdict.endswith("from"):
            return max((*self.crossings, least))
        return min((*self.crossings, most))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Bounds of the 95% interval for the crossing; None where the difference is clear with every compute.

        An end whose difference is unclear only after the correction counts as unclear here as well.
        """
        unclear = [*(t for each in self.unclear for t in each), *(e.total for e in self.ends if e.verdict == "unclear")]
        return (min(unclear), max(unclear)) if unclear else None


def compute_frontiers(
    runs: pd.DataFrame, baseline: str, shared_by: int, looks: Looks = ONE_LOOK
) -> list[ComputeFrontier]:
    """Compare each arm with the baseline over total compute, at each label budget, with both charges for pretraining.

    A verdict rests on the two ends of the range of compute that both arms were run with, and Holm's method corrects it
    over both ends of all budgets. The confidence set for the crossing needs no correction. It inverts a test, as
    Fieller's method does for a ratio, so it misses the crossing only where the test at this one compute errs.

    Parameters
    ----------
    runs : DataFrame
        One row for each run, in any order, with the columns arm, labels, seed, compute, test_accuracy, correct,
        pretrain_flops and finetune_flops. A seed counts when both arms have runs with all their multiples.
    baseline : str
        Name of the arm that the others are compared with.
    shared_by : int
        Number of trainings that share one pretraining where it is not charged in full.
    looks : Looks
        Looks at the results that p values and intervals allow for.

    References
    ----------
    Fieller (1954), Some problems in interval estimation, Journal of the Royal Statistical Society B 16.
    """
    frontiers = []
    for arm in [arm for arm in runs["arm"].unique() if arm != baseline]:
        pair = runs[runs["arm"].isin([arm, baseline])]
        charges = [1, shared_by] if (pair["pretrain_flops"] > 0).any() else [0]
        for charge in dict.fromkeys(charges):
            budgets = sorted(pair["labels"].unique())
            found = [
                _frontier(pair[pair["labels"] == n], str(arm), baseline, int(n), charge, looks.level) for n in budgets
            ]
            frontiers += _corrected([each for each in found if each], looks)
    return sorted(frontiers, key=lambda each: each.labels)


def differences_over_compute(
    runs: pd.DataFrame, frontier: ComputeFrontier, points: int, looks: Looks = ONE_LOOK
) -> tuple[np.ndarray, list[Estimate]]:
    """Return so many total computes between the ends of a frontier, (points,), and the difference with each.

    Parameters
    ----------
    runs : DataFrame
        Runs of both arms, and perhaps of others, at the label budget of the frontier.
    frontier : ComputeFrontier
        A frontier with two ends.
    points : int
        Number of total computes.
    looks : Looks
        Looks at the results that intervals allow for.
    """
    pair = paired_curves(runs, frontier.arm, frontier.baseline, frontier.shared_by)
    assert pair is not None
    totals = np.geomspace(*pair.overlap, points)
    totals[[0, -1]] = pair.overlap
    return totals, [as_estimate(d, looks.level) for d in pair.differences(totals)]


def _frontier(
    runs: pd.DataFrame, arm: str, baseline: str, labels: int, shared_by: int, level: float
) -> ComputeFrontier | None:
    """Return the frontier of an arm from the runs of both at one budget; None where no seed has all of them."""
    pair = paired_curves(runs, arm, baseline, shared_by)
    if pair is None:
        return None
    least, most = pair.overlap
    found: dict[str, Any] = {"ends": (), "crossings": (), "unclear": (), "gap": None, "enough": None}
    if least <= most:
        found |= _judged(pair, least, most, level)
    else:
        found |= {"gap": as_estimate(pair.gap(), level), "enough": _enough(pair, runs)}
    found |= {"arm_range": pair.arm.range, "baseline_range": pair.baseline.range}
    return ComputeFrontier(arm, baseline, labels, pair.moments.seeds, shared_by, **found)


def _enough(pair: PairedCurves, runs: pd.DataFrame) -> float | None:
    """Return the multiple with which the cheaper of two arms would cost as much as the other's cheapest runs."""
    times = pair.enough()
    return times * float(runs["compute"].max()) if times else None


def _judged(pair: PairedCurves, least: float, most: float, level: float) -> dict[str, Any]:
    """Return the ends of an overlap, the crossings and the confidence set for them."""
    # Rounding must not put a compute outside the overlap.
    inside = [*pair.arm.totals, *pair.baseline.totals, *np.geomspace(least, most, GRID)]
    totals = sorted({least, most, *(float(total) for total in inside if least < total < most)})
    means = [d.mean for d in pair.differences(totals)]
    crossings = _roots(lambda total: pair.differences([total])[0].mean, totals, means)
    # An interval may be so narrow that it lies between neighbors. It always holds the crossing.
    totals = sorted({*totals, *crossings})
    found = pair.differences(totals)
    values = [d.p for d in found]
    ends = [
        Difference(totals[k], as_estimate(found[k], level), values[k], values[k]) for k in sorted({0, len(totals) - 1})
    ]
    unclear = _unclear(pair, totals, values, level)
    return {"ends": tuple(ends), "crossings": tuple(crossings), "unclear": tuple(unclear)}


def _unclear(pair: PairedCurves, totals: list[float], values: list[float], level: float) -> list[tuple[float, float]]:
    """Return the ranges of total compute where p is not below the level, given p at some of them."""
    unclear = [p >= level for p in values]
    edges = _roots(
        lambda total: pair.differences([total])[0].p - level,
        totals,
        [1.0 if each else -1.0 for each in unclear],
    )
    edges = [*([totals[0]] if unclear[0] else []), *edges, *([totals[-1]] if unclear[-1] else [])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _roots(function: Callable[[float], float], totals: list[float], values: list[float]) -> list[float]:
    """Return where a function changes its sign between neighbors, given its values at total computes."""
    nonzero = [(t, v) for t, v in zip(totals, values, strict=True) if v]
    changes = [(a[0], b[0]) for a, b in pairwise(nonzero) if a[1] * b[1] < 0]
    return [float(optimize.brentq(function, low, high, rtol=1e-10)) for low, high in changes]


def _corrected(frontiers: Sequence[ComputeFrontier], looks: Looks) -> list[ComputeFrontier]:
    """Return frontiers with p values corrected for the looks and over both ends of all of them."""
    known = [looks.corrected(end.p) for each in frontiers for end in each.ends]
    corrected = iter(holm_corrected(known) if known else [])
    return [
        replace(
            each,
            ends=tuple(replace(end, p_corrected=next(corrected)) for end in each.ends),
        )
        for each in frontiers
    ]
