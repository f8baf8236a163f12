"""What is an arm worth in labels? How many the baseline needs to reach the same accuracy."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from pretrain.comparison.paired_differences import ENOUGH, LEVEL, NAN, seed_table
from pretrain.runs.seeding import derive_seed

RESAMPLES = 9999


@dataclass(frozen=True)
class LabelEfficiency:
    """How many labels the baseline needs to reach what an arm reaches with `labels`.

    Attributes
    ----------
    arm, baseline : str
        Who is compared.
    labels, n : int
        The arm's budget, and the number of seeds.
    estimate, low, high : float
        Labels, with the bounds of the 95% interval; 0 stands for fewer than `smallest`, infinity for more than
        `largest`. Both bounds are NaN with fewer than five seeds.
    smallest, largest : int
        The baseline's budgets; nothing is said of it beyond them.
    """

    arm: str
    baseline: str
    labels: int
    n: int
    estimate: float
    low: float
    high: float
    smallest: int
    largest: int

    @property
    def fewer(self) -> bool:
        """Whether the arm is worse than the baseline with its smallest budget: no number can be given."""
        return self.estimate < self.smallest

    @property
    def more(self) -> bool:
        """Whether the arm is better than the baseline with its largest budget: no number can be given."""
        return self.estimate > self.largest

    def sentence(self) -> str:
        """Return what the labels are worth in words, to three digits."""
        bounds = [self._words(self.low), self._words(self.high)]
        interval = "too few seeds for an interval"
        if self.n >= ENOUGH:
            interval = "95% interval " + " to ".join(dict.fromkeys(bounds))  # said once if both are the same
        worth = f"{self.labels:,} labels with {self.arm} are worth {self._words(self.estimate)} with {self.baseline}"
        return f"{worth} ({interval})."

    def _words(self, labels: float) -> str:
        if labels < self.smallest:
            return f"fewer than {self.smallest:,}"
        if labels > self.largest:
            return f"more than {self.largest:,}"
        return f"{float(f'{labels:.3g}'):,.0f}"


def label_efficiency(results: pd.DataFrame, baseline: str) -> list[LabelEfficiency]:
    """Return for each other arm and budget how many labels the baseline needs to reach the same mean accuracy.

    The baseline's mean accuracy over its budgets is made monotone and interpolated linearly in the logarithm of the
    number of labels. The interval comes from resampling seeds as wholes, the same for both arms and all budgets, so
    that it keeps the pairing; its percentiles are widened for the small number of seeds. When accuracy rises in
    proportion to log(labels) and the noise is normal, it covers the truth about 92 times in 100 with five seeds
    and 95 with ten (`benchmarks/coverage.py`).

    Parameters
    ----------
    results : DataFrame
        A row a run, in any order, with the columns arm, labels, seed and test_accuracy. A seed counts when it has the
        arm's run and the baseline's runs at all of its budgets.
    baseline : str
        An arm.

    Returns
    -------
    list of LabelEfficiency
        Empty when the baseline has fewer than two budgets.

    References
    ----------
    Hesterberg (2015), What teachers should know about the bootstrap, The American Statistician 69: the widening.
    """
    table = seed_table(results)
    if baseline not in table:
        return []
    curve = table[baseline].unstack("labels").dropna(axis="columns", how="all")  # a row a seed, a column a budget
    if curve.shape[1] < 2:
        return []
    needed = []
    for arm in [arm for arm in results["arm"].unique() if arm != baseline and arm in table]:
        for labels, reached in table[arm].groupby(level="labels"):
            seeds = pd.concat([reached.droplevel("labels"), curve], axis="columns").dropna().sort_index()
            if len(seeds):
                generator = np.random.default_rng(derive_seed(0, "labels needed", arm, baseline, int(labels)))
                worth = interval_of_labels(seeds.to_numpy(), curve.columns.to_numpy(), generator)
                ends = int(curve.columns[0]), int(curve.columns[-1])
                needed.append(LabelEfficiency(str(arm), baseline, int(labels), len(seeds), *worth, *ends))
    return needed


def interval_of_labels(
    accuracies: np.ndarray, budgets: np.ndarray, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Return how many labels the baseline needs, and its 95% interval by bootstrap over seeds.

    Parameters
    ----------
    accuracies : array, (n, 1 + B)
        A row a seed: the arm's accuracy first, then the baseline's at its budgets.
    budgets : array of int, (B,)
        Numbers of labels, rising, two or more.
    generator : numpy.random.Generator
        Draws the seeds.

    Returns
    -------
    estimate, low, high : float
        Labels: 0 for fewer than the smallest budget, infinity for more than the largest. The bounds are NaN for
        fewer than five seeds.
    """
    n = len(accuracies)
    if n < ENOUGH:
        return float(_needed(accuracies.mean(axis=0, keepdims=True), budgets)[0]), NAN, NAN
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # how often each seed is drawn
    shares = np.vstack([np.ones(n), drawn]) / n  # (1 + resamples, n), the sample itself first
    worth = _needed(shares @ accuracies, budgets)
    # Resamples of n seeds vary by too little, as a variance over n in place of n - 1 does, and normal quantiles stand
    # for those of Student's t; both are made good by reading percentiles further out.
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(LEVEL / 2, n - 1))
    outside = int(tail * (RESAMPLES + 1))
    ordered = np.sort(worth[1:])  # and not interpolated: some may be infinite
    return float(worth[0]), float(ordered[outside]), float(ordered[-1 - outside])


def _needed(means: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Return the labels at which the baseline first reaches the arm's mean: (R, 1 + B), (B,) -> (R,)."""
    means = means.round(12)  # so that equal means are equal, however they were summed
    reached, curves = means[:, 0], means[:, 1:].copy()
    for row in np.flatnonzero((np.diff(curves) < 0).any(axis=1)):  # most rise already, and stay as they are
        curves[row] = optimize.isotonic_regression(curves[row]).x
    k = (curves < reached[:, None]).sum(axis=1)  # the first budget at which the baseline is as good
    right = k.clip(1, len(budgets) - 1)
    rows, x = np.arange(len(means)), np.log(budgets)
    low, high = curves[rows, right - 1], curves[rows, right]
    share = np.divide(reached - low, high - low, out=np.zeros(len(means)), where=high > low)
    labels = np.exp(x[right - 1] + share * (x[right] - x[right - 1])).clip(budgets[0], budgets[-1])
    labels[reached < curves[:, 0]] = 0
    labels[reached > curves[:, -1]] = np.inf
    return labels
