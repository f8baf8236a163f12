"""How many seeds a comparison needs: the power of its test of a difference, with seeds and images as crossed effects.

More seeds remove the part of the variance that is due to seeds, and leave the part that is due to test images.

References
----------
Cohen (1988), Statistical power analysis for the behavioral sciences, chapter 2.
Hillis, Obuchowski and Berbaum (2011), Power estimation for multireader ROC methods, Academic Radiology 18, on the
noncentral distribution with the degrees of freedom of crossed effects.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from pretrain.comparison.crossed_effects import CrossedEffects, crossed_effects, effects_over_seeds
from pretrain.comparison.hypothesis_tests import POWER
from pretrain.comparison.paired_differences import SEEDS_FOR_A_CLAIM, SIGNIFICANCE_LEVEL, by_image

# Nobody runs more seeds than this.
MOST_SEEDS = 1000
# The spread over seeds lies in an interval of this confidence, and so does the number of seeds that it asks for.
SPREAD_CONFIDENCE = 0.8


@dataclass(frozen=True)
class SeedPlan:
    """The seeds that it takes to detect a difference at one label budget.

    Attributes
    ----------
    difference : float
        True difference to detect, as a fraction of 1.
    seeds : int
        Number of seeds so far, from which the variances are estimated.
    power : float
        Probability that so many seeds detect it.
    needed : int or None
        Number of seeds in all that detect it four times in five; None where no number up to `MOST_SEEDS` does.
    fewest, most : int or None
        The same at both ends of an 80% interval of the spread over seeds, which is an estimate.
    images : int or None
        Number of test images without which no number of seeds would do; None where the seeds alone decide.
    """

    difference: float
    seeds: int
    power: float
    needed: int | None
    fewest: int | None
    most: int | None
    images: int | None


def power(
    difference: float,
    seeds: int,
    seed_variance: float,
    image_variance: float = 0.0,
    level: float = SIGNIFICANCE_LEVEL,
) -> float:
    """Return the probability that the two-sided test of `CrossedEffects` finds a true difference.

    Parameters
    ----------
    difference : float
        True difference.
    seeds : int
        Number of seeds, at least two.
    seed_variance, image_variance : float
        Parts of the variance, as in `CrossedEffects`. Without the second, it is the paired t test over seeds.
    level : float
        Significance level of one test. Holm's correction over budgets is left out.
    """
    design = CrossedEffects(seeds, 0, difference, seed_variance, image_variance)
    if design.variance == 0:
        return float(difference != 0)
    freedom, shift = design.degrees_of_freedom, abs(difference) / np.sqrt(design.variance)
    if not np.isfinite(freedom):
        return _normal_power(shift, level)
    bound = design.margin(1 - level) / np.sqrt(design.variance)
    # SciPy has no number for tails that are next to certain, or next to impossible.
    above = np.nan_to_num(stats.nct.sf(bound, freedom, shift), nan=1.0)
    below = np.nan_to_num(stats.nct.cdf(-bound, freedom, shift), nan=0.0)
    return float(min(above + below, 1.0))


def _normal_power(shift: float, level: float) -> float:
    bound = stats.norm.ppf(1 - level / 2)
    return float(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift))


def seeds_needed(
    difference: float,
    seed_variance: float,
    image_variance: float = 0.0,
    level: float = SIGNIFICANCE_LEVEL,
    most: int = MOST_SEEDS,
) -> int | None:
    """Return the smallest number of seeds, from 5 on, that detect a difference four times in five.

    None where `most` seeds do not, as where the part of the images alone is too large.
    """

    def enough(seeds: int) -> bool:
        return power(difference, seeds, seed_variance, image_variance, level) >= POWER

    if not enough(most):
        return None
    low, high = SEEDS_FOR_A_CLAIM - 1, most  # too few, or none; and enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def images_needed(
    difference: float, image_variance: float, images: int, level: float = SIGNIFICANCE_LEVEL
) -> int | None:
    """Return the number of test images without which no number of seeds detects a difference four times in five.

    The variance due to images is inversely proportional to their number. None where there are enough images, or no
    difference.
    """
    if not difference or not image_variance or _normal_power(abs(difference) / np.sqrt(image_variance), level) >= POWER:
        return None
    shift = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER)
    return int(np.ceil(images * image_variance * (shift / difference) ** 2))


def seed_plan(effects: CrossedEffects, difference: float, level: float = SIGNIFICANCE_LEVEL) -> SeedPlan:
    """Return how many seeds it takes to detect a difference, with variances as they were estimated."""
    of_seeds, of_images, n = effects.seed_variance, effects.image_variance, effects.seeds
    tail = (1 - SPREAD_CONFIDENCE) / 2
    low, high = ((n - 1) * of_seeds / stats.chi2.ppf(p, n - 1) for p in (1 - tail, tail))
    return SeedPlan(
        difference=difference,
        seeds=n,
        power=power(difference, n, of_seeds, of_images, level),
        needed=seeds_needed(difference, of_seeds, of_images, level),
        fewest=seeds_needed(difference, low, of_images, level),
        most=seeds_needed(difference, high, of_images, level),
        images=images_needed(difference, of_images, effects.images, level),
    )


def paired_effects(runs: pd.DataFrame, arm: str, baseline: str) -> dict[int, CrossedEffects]:
    """Return the difference of an arm from the baseline at each label budget that has two paired seeds or more.

    Parameters
    ----------
    runs : DataFrame
        One row for each run, with the columns arm, labels, seed, test_accuracy and correct. Where a run kept no
        predictions (`correct` is None), the images have no part in the variance.
    arm, baseline : str
        Names of the arms.
    """
    found = {}
    for labels, at_budget in runs.dropna(subset="test_accuracy").groupby("labels"):
        one, other = (at_budget[at_budget["arm"] == name].set_index("seed") for name in (arm, baseline))
        if len(seeds := sorted({*one.index} & {*other.index})) > 1:
            found[int(labels)] = _effects(one.loc[seeds], other.loc[seeds])  # type: ignore[arg-type,call-overload]
    return found


def _effects(one: pd.DataFrame, other: pd.DataFrame) -> CrossedEffects:
    """Return the difference of two arms with the same seeds, with the part of the images if all kept predictions."""
    of_one, of_other = by_image(one["correct"]), by_image(other["correct"])
    if of_one is not None and of_other is not None and of_one.shape == of_other.shape:
        return crossed_effects(of_one - of_other)
    return effects_over_seeds(one["test_accuracy"] - other["test_accuracy"])
