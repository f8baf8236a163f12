"""Estimates from paired differences: mean, confidence intervals and effect size."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from pretrain.comparison.crossed_effects import NAN, CrossedEffects, crossed_effects, effects_over_seeds

# Fewer seeds than this support no claim.
SEEDS_FOR_A_CLAIM = 5
# Tests are made at this level, and intervals have one minus it as their confidence.
SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% intervals.

    Attributes
    ----------
    n : int
        Number of seeds.
    mean : float
        Mean over the seeds.
    low, high : float
        Bounds of the interval for new seeds on these test images, by Student's t; NaN for a single seed.
    new_images : (float, float), optional
        Bounds of the interval for new seeds and new test images. They are never within the others. None for a single
        seed, or where runs kept no predictions.
    """

    n: int
    mean: float
    low: float
    high: float
    new_images: tuple[float, float] | None = None

    @property
    def claimed(self) -> tuple[float, float]:
        """Bounds of the interval that a verdict goes by: the widest that is known."""
        return self.new_images or (self.low, self.high)


def seed_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return test accuracies as a table: a sorted row for each budget and seed, a column for each arm, NaN for no run.

    Parameters
    ----------
    results : DataFrame
        One row for each run, in any order, with the columns arm, labels, seed and test_accuracy. A row whose accuracy
        is NaN counts as missing.

    Raises
    ------
    ValueError
        When an arm has two runs with the same labels and seed, since the pairing would be ambiguous.
    """
    runs = results.dropna(subset="test_accuracy")
    return runs.pivot(index=["labels", "seed"], columns="arm", values="test_accuracy")


def correct_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `seed_table`, with the test images that each run got right in place of its accuracy.

    A cell is the value of the column ``correct``, (m,), or None; every cell is None where there is no such column.
    """
    runs = results.dropna(subset="test_accuracy")
    runs = runs if "correct" in runs else runs.assign(correct=None)
    return runs.pivot(index=["labels", "seed"], columns="arm", values="correct")


def by_image(kept: Iterable[object]) -> np.ndarray | None:
    """Return what runs got right as numbers, (n, m), or None where one kept nothing or saw other images."""
    rows = [row if isinstance(row, np.ndarray) else np.empty(0) for row in kept]
    sizes = {len(row) for row in rows}
    # A single image has no spread.
    return np.array(rows, dtype=float) if len(sizes) == 1 and min(sizes) > 1 else None


def estimate(values: ArrayLike, images: np.ndarray | None = None, level: float = SIGNIFICANCE_LEVEL) -> Estimate:
    """Return the mean of values, (n,), one for each seed, with its 95% intervals.

    Parameters
    ----------
    values : array of float, (n,)
        One value for each seed.
    images : array of float, (n, m), optional
        The same values for each test image, whose means over images they are.
    level : float
        One minus the confidence of each interval; less than 5% where the 95% are to hold for several looks together.
    """
    return as_estimate(effects_of(values, images), level)


def effects_of(values: ArrayLike, images: np.ndarray | None = None) -> CrossedEffects:
    """Return the mean of values and the parts of its variance; the arguments are those of `estimate`."""
    x = np.asarray(values, dtype=float)
    over_seeds = effects_over_seeds(x)
    if images is None or len(x) < 2:
        return over_seeds
    crossed = crossed_effects(images)
    return replace(over_seeds, images=crossed.images, image_variance=crossed.image_variance)


def differences_by_budget(
    results: pd.DataFrame, arm: str, baseline: str
) -> dict[int, tuple[np.ndarray, CrossedEffects]]:
    """Return the differences of an arm from the baseline at each label budget, (n,), with the parts of their variance.

    The images have a part where all these runs kept their predictions. The order of the rows changes no number.

    Parameters
    ----------
    results : DataFrame
        One row for each run, with the columns arm, labels, seed and test_accuracy, and where there are predictions
        ``correct``: whether each test image was classified correctly, (m,), bool, or None.
    arm, baseline : str
        Names of the arms.
    """
    table, correct = seed_table(results), correct_table(results)
    if not {arm, baseline} <= set(table):
        return {}
    # Rounding makes equal differences equal: those of floats are so only nearly.
    differences = (table[arm] - table[baseline]).dropna().round(12)
    return {
        int(labels): (x.to_numpy(), effects_of(x, _image_differences(correct.loc[x.index], arm, baseline)))  # type: ignore[call-overload, arg-type]
        for labels, x in differences.groupby(level="labels")
    }


def _image_differences(correct: pd.DataFrame, arm: str, baseline: str) -> np.ndarray | None:
    """Return the paired differences for each test image, (n, m), or None where runs kept no predictions."""
    of_arm, of_baseline = by_image(correct[arm]), by_image(correct[baseline])
    if of_arm is None or of_baseline is None or of_arm.shape != of_baseline.shape:
        return None
    return of_arm - of_baseline


def as_estimate(effects: CrossedEffects, level: float = SIGNIFICANCE_LEVEL) -> Estimate:
    """Return a mean with its intervals, the one for new images only where single images are known."""
    new_images = effects.interval(1 - level) if effects.images and effects.seeds > 1 else None
    return Estimate(effects.seeds, effects.mean, *effects.over_seeds.interval(1 - level), new_images)


def effect_size(differences: ArrayLike) -> float:
    """Return Cohen's d_z without bias: the mean of paired differences, (n,), over their standard deviation.

    Hedges' exact factor removes the bias of small samples. The factor is 0 for two seeds, so fewer than three give NaN.
    Equal differences give an infinite effect size, or 0 when they are all 0.

    References
    ----------
    Cohen (1988), Statistical power analysis for the behavioral sciences, section 2.3.5.
    Hedges (1981), Distribution theory for Glass's estimator of effect size, Journal of Educational Statistics 6.
    """
    x = np.asarray(differences, dtype=float)
    m = len(x) - 1  # degrees of freedom
    if m < 2:
        return NAN
    if np.ptp(x) == 0:
        return float(np.sign(x[0]) * np.inf) if x[0] else 0.0
    unbiased = np.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / np.sqrt(m / 2)
    return float(unbiased * x.mean() / x.std(ddof=1))
