"""Label efficiency: how many labels the baseline needs to reach the accuracy of an arm."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from pretrain.comparison.crossed_effects import image_covariance
from pretrain.comparison.paired_differences import (
    NAN,
    SEEDS_FOR_A_CLAIM,
    SIGNIFICANCE_LEVEL,
    by_image,
    correct_table,
    seed_table,
)
from pretrain.runs.seeding import derive_seed

RESAMPLES = 9999


@dataclass(frozen=True)
class LabelEfficiency:
    """How many labels the baseline needs to reach the accuracy of an arm at one label budget.

    Attributes
    ----------
    arm, baseline : str
        Names of the two arms.
    labels, n : int
        Label budget of the arm, and number of seeds.
    estimate, low, high : float
        Number of labels with the bounds of its 95% interval. 0 stands for fewer than `smallest`, and infinity for more
        than `largest`. Both bounds are NaN with fewer than five seeds.
    smallest, largest : int
        Smallest and largest label budget of the baseline. The estimate never extrapolates beyond them.
    new_images : bool
        Whether the interval holds for new test images as well as new seeds.
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
    new_images: bool = False

    @property
    def fewer(self) -> bool:
        """Whether the arm is worse than the baseline at its smallest budget, so that no number can be given."""
        return self.estimate < self.smallest

    @property
    def more(self) -> bool:
        """Whether the arm is better than the baseline at its largest budget, so that no number can be given."""
        return self.estimate > self.largest

    def sentence(self) -> str:
        """Return the label efficiency as a sentence, to three digits."""
        bounds = [self._words(self.low), self._words(self.high)]
        interval = "too few seeds for an interval"
        if self.n >= SEEDS_FOR_A_CLAIM:
            # Equal bounds are named once.
            interval = "95% interval " + " to ".join(dict.fromkeys(bounds))
        needed = self._words(self.estimate)
        return f"With {self.labels:,} labels, {self.arm} is as accurate as {self.baseline} with {needed} ({interval})."

    def _words(self, labels: float) -> str:
        if labels < self.smallest:
            return f"fewer than {self.smallest:,}"
        if labels > self.largest:
            return f"more than {self.largest:,}"
        return f"{float(f'{labels:.3g}'):,.0f}"


def label_efficiency(results: pd.DataFrame, baseline: str) -> list[LabelEfficiency]:
    """Return how many labels the baseline needs to reach the mean accuracy of each other arm at each budget.

    The baseline's mean accuracy over its budgets is made monotone and interpolated linearly in the logarithm of the
    number of labels. The interval comes from a bootstrap over whole seeds, drawn alike for both arms and all budgets,
    which keeps the pairing. Its percentiles are widened for the small number of seeds. Where all these runs kept their
    predictions, each resample also moves the means as other test images would, by a normal draw with the covariance
    that images give to them. The interval then holds for new seeds and new images, or else for new seeds alone
    (`benchmarks/coverage.py` has its coverage).

    Parameters
    ----------
    results : DataFrame
        One row for each run, in any order, with the columns arm, labels, seed and test_accuracy, and ``correct`` as
        for `compare_arms`. A seed counts when the arm has a run at the budget and the baseline has a run at every one
        of its own.
    baseline : str
        Name of the arm that the others are compared with.

    Returns
    -------
    list of LabelEfficiency
        Empty when the baseline has fewer than two budgets.

    References
    ----------
    Hesterberg (2015), What teachers should know about the bootstrap, The American Statistician 69,
    on widened percentiles.
    """
    table, correct = seed_table(results), correct_table(results)
    if baseline not in table:
        return []
    curve = table[baseline].unstack("labels").dropna(axis="columns", how="all")  # (seeds, budgets)
    if curve.shape[1] < 2:
        return []
    efficiencies = []
    for arm in [arm for arm in results["arm"].unique() if arm != baseline and arm in table]:
        for labels, reached in table[arm].groupby(level="labels"):
            seeds = pd.concat([reached.droplevel("labels"), curve], axis="columns").dropna().sort_index()
            if len(seeds):
                generator = np.random.default_rng(derive_seed(0, "labels needed", arm, baseline, int(labels)))
                runs = [(labels, arm), *((budget, baseline) for budget in curve.columns)]
                images = _images_of(correct.unstack("labels").loc[seeds.index], runs)
                labels_needed = interval_of_labels(seeds.to_numpy(), curve.columns.to_numpy(), generator, images)
                ends = int(curve.columns[0]), int(curve.columns[-1])
                found = *labels_needed, *ends, images is not None
                efficiencies.append(LabelEfficiency(str(arm), baseline, int(labels), len(seeds), *found))
    return efficiencies


def _images_of(correct: pd.DataFrame, runs: list[tuple[int, str]]) -> np.ndarray | None:
    """Return what the runs of a label budget and arm got right, (n, m, runs), or None where one kept no predictions."""
    values = [by_image(correct[arm, labels]) for labels, arm in runs]
    kept = [each for each in values if each is not None]
    return np.stack(kept, axis=2) if len(kept) == len(runs) and len({each.shape for each in kept}) == 1 else None


def interval_of_labels(
    accuracies: np.ndarray, budgets: np.ndarray, generator: np.random.Generator, images: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return how many labels the baseline needs, with its 95% bootstrap interval.

    Parameters
    ----------
    accuracies : array, (n, 1 + B)
        One row for each seed: the accuracy of the arm, then those of the baseline at its budgets.
    budgets : array of int, (B,)
        Numbers of labels in increasing order, at least two.
    generator : numpy.random.Generator
        Source of the resampled seeds and images.
    images : array of float, (n, m, 1 + B), optional
        The same accuracies for each test image. With them, the interval holds for new images as well as new seeds.

    Returns
    -------
    estimate, low, high : float
        Numbers of labels. 0 stands for fewer than the smallest budget, and infinity for more than the largest. The
        bounds are NaN for fewer than five seeds.
    """
    n = len(accuracies)
    if n < SEEDS_FOR_A_CLAIM:
        return float(_labels_needed(accuracies.mean(axis=0, keepdims=True), budgets)[0]), NAN, NAN
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # (resamples, n)
    # The first row is the sample itself.
    shares = np.vstack([np.ones(n), drawn]) / n  # (1 + resamples, n)
    means = shares @ accuracies
    # Resampled means vary too little, as a variance does that divides by n and not by n - 1. Percentiles also behave
    # like quantiles of the normal distribution, where Student's t is due. Percentiles further out correct for both.
    widened = np.sqrt(n / (n - 1)) * stats.t.isf(SIGNIFICANCE_LEVEL / 2, n - 1)
    if images is not None:
        # The images' part is made smaller by as much, since its spread is known from many images.
        means[1:] += stats.norm.isf(SIGNIFICANCE_LEVEL / 2) / widened * _image_effects(images, generator)
    needed = _labels_needed(means, budgets)
    outside = int(stats.norm.sf(widened) * (RESAMPLES + 1))
    # Some values may be infinite, so percentiles are not interpolated.
    ordered = np.sort(needed[1:])
    return float(needed[0]), float(ordered[outside]), float(ordered[-1 - outside])


def _image_effects(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw what other test images would add to means over seeds and images: (n, m, k) -> (resamples, k)."""
    variances, directions = np.linalg.eigh(image_covariance(images))
    # The estimate may have negative eigenvalues, and rounding makes others of those that are 0, as for equal arms.
    variances = np.where(variances > 1e-9 * variances[-1], variances.clip(min=0), 0)
    # The symmetric root is the same whatever signs a library gives to the eigenvectors.
    root = (directions * np.sqrt(variances)) @ directions.T
    return generator.standard_normal((RESAMPLES, len(variances))) @ root


def _labels_needed(means: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Return the labels at which the baseline first reaches the arm's mean: (R, 1 + B), (B,) -> (R,)."""
    # Rounding makes equal means equal, in whatever order they were summed.
    means = means.round(12)
    reached, curves = means[:, 0], means[:, 1:].copy()
    # Most curves rise already and stay as they are.
    for row in np.flatnonzero((np.diff(curves) < 0).any(axis=1)):
        curves[row] = optimize.isotonic_regression(curves[row]).x
    first_as_good = (curves < reached[:, None]).sum(axis=1)
    right = first_as_good.clip(1, len(budgets) - 1)
    rows, x = np.arange(len(means)), np.log(budgets)
    low, high = curves[rows, right - 1], curves[rows, right]
    share = np.divide(reached - low, high - low, out=np.zeros(len(means)), where=high > low)
    labels = np.exp(x[right - 1] + share.clip(0, 1) * (x[right] - x[right - 1])).clip(budgets[0], budgets[-1])
    labels[reached < curves[:, 0]] = 0
    labels[reached > curves[:, -1]] = np.inf
    return labels
