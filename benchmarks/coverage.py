"""Measure how often the intervals of a comparison cover the truth, and how often its verdicts are false or missed.

Comparisons are drawn at random, image by image. A run gets an image right when a sum of normal effects is above 0: of
the image, which some arms find harder than others, of the seed's labels, which both arms share, of the run, and of
chance. The truth is a mean over all seeds and all images. The package's functions then judge each comparison, as in a
report, once for new seeds and once for new seeds and images.

    python benchmarks/coverage.py     # about 6 minutes on one core
"""

import argparse
import gc
import itertools
from collections.abc import Iterator

import numpy as np
from scipy import stats

from pretrain.comparison.crossed_effects import image_covariance
from pretrain.comparison.hypothesis_tests import detectable_difference, holm_corrected, paired_p
from pretrain.comparison.label_efficiency import interval_of_labels
from pretrain.comparison.paired_differences import SIGNIFICANCE_LEVEL, estimate

# Accuracy with 100, 400 and 1,600 labels, in proportion to the logarithm of their number.
ACCURACIES, LABELS = (0.85, 0.90, 0.95), (100, 400, 1600)
# Standard deviations of the effects, where that of chance is 1. On the digits, with 200 labels, they give the spreads
# that were measured: with an image effect of 0.8, those of frozen layers against scratch, and with 0.3 about those of
# fine-tuned layers against scratch.
DIFFICULTY, SUBSET, SUBSET_ON_IMAGE, RUN = 1.5, 0.05, 0.5, 0.03
# What is drawn at once: seeds x images of so many comparisons.
VALUES_AT_ONCE = 2_000_000

Accuracies = tuple[float, ...]


def draw(
    generator: np.random.Generator, shape: tuple[int, int, int], image_effect: float, *arms: Accuracies
) -> list[list[np.ndarray]]:
    """Return what the runs of arms with these true accuracies at their budgets get right, as 0 and 1.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of all effects.
    shape : (int, int, int)
        Number of comparisons, of seeds and of images.
    image_effect : float
        Standard deviation of the effect that an image has on one arm at one budget. Where it is 0, no image is easier
        than another for any arm.
    *arms : tuple of float
        Accuracy at each budget.

    Returns
    -------
    list of list of array, (comparisons, seeds, images)
        An array for each budget of each arm.
    """
    comparisons, seeds, images = shape
    difficulty, on_image = (DIFFICULTY, SUBSET_ON_IMAGE) if image_effect else (0.0, 0.0)
    spread = np.sqrt(1 + difficulty**2 + image_effect**2 + SUBSET**2 + on_image**2 + RUN**2)

    def effect(deviation: float, *size: int) -> np.ndarray:
        return generator.standard_normal(size, dtype=np.float32) * np.float32(deviation)

    easy = effect(difficulty, comparisons, 1, images)
    subsets = [
        easy + effect(SUBSET, comparisons, seeds, 1) + effect(on_image, *shape) for _ in range(max(map(len, arms)))
    ]

    def run(accuracy: float, subset: np.ndarray) -> np.ndarray:
        own = effect(image_effect, comparisons, 1, images) + effect(RUN, comparisons, seeds, 1)
        return (subset + own + effect(1, *shape) > -spread * stats.norm.ppf(accuracy)).astype(float)

    return [[run(*at) for at in zip(arm, subsets, strict=False)] for arm in arms]


def comparisons(
    generator: np.random.Generator, count: int, seeds: int, images: int, image_effect: float, *arms: Accuracies
) -> Iterator[list[list[np.ndarray]]]:
    """Yield the budgets of each arm, (seeds, images) each, of one comparison after another."""
    at_once = max(1, VALUES_AT_ONCE // (seeds * images))
    for start in range(0, count, at_once):
        few = min(at_once, count - start)
        drawn = draw(generator, (few, seeds, images), image_effect, *arms)
        yield from ([[budget[k] for budget in arm] for arm in drawn] for k in range(few))


def covers(differences: np.ndarray, truth: float) -> tuple[bool, bool]:
    """Return whether the interval for new seeds, and that for new seeds and images, cover the true difference."""
    e = estimate(differences.mean(axis=1), differences)
    return e.low <= truth <= e.high, e.claimed[0] <= truth <= e.claimed[1]


def p_values(differences: np.ndarray) -> tuple[float, float]:
    """Return the p value over seeds, and that over seeds and images."""
    x = differences.mean(axis=1)
    return paired_p(x), paired_p(x, differences)


def false_verdicts(drawn: Iterator[list[list[np.ndarray]]]) -> tuple[dict[str, float], float]:
    """Return the shares of false verdicts of two equal arms, and the difference that the middle budget detects."""
    by_budget, parts = [], []
    for arm, baseline in drawn:
        differences = [a - b for a, b in zip(arm, baseline, strict=True)]
        by_budget.append([p_values(x) for x in differences])
        middle = differences[1]
        parts.append((middle.mean(axis=1).var(ddof=1), image_covariance(middle[:, :, None])[0, 0]))
    p = np.array(by_budget)  # (comparisons, budgets, rules)
    corrected = np.array([[min(holm_corrected(each)) for each in of.T] for of in p])
    one, any_of_three = ((each < SIGNIFICANCE_LEVEL).mean(axis=0) for each in (p[:, 1], corrected))
    seed_variance, image_variance = np.mean(parts, axis=0)
    detectable = detectable_difference(len(middle), seed_variance, max(image_variance, 0.0))
    shares = {
        "false, seeds": one[0],
        "false, both": one[1],
        "false of 3, seeds": any_of_three[0],
        "false of 3, both": any_of_three[1],
    }
    return shares, detectable


def found(drawn: Iterator[list[list[np.ndarray]]], gain: float) -> dict[str, float]:
    """Return how often intervals cover a true difference, and how often an arm that is better by it is said to help."""
    covered, helps = [], []
    for (arm,), (baseline,) in drawn:
        covered.append(covers(arm - baseline, gain))
        helps.append(p_values(arm - baseline)[1] < SIGNIFICANCE_LEVEL and arm.mean() > baseline.mean())
    seeds, both = np.mean(covered, axis=0)
    return {"covers, seeds": seeds, "covers, both": both, "detectable found": float(np.mean(helps))}


def labels_covered(drawn: Iterator[list[list[np.ndarray]]], generator: np.random.Generator) -> dict[str, float]:
    """Return how often the intervals of the labels needed cover the truth, for an arm that halves them."""
    numbers, truth, covered = np.array(LABELS), 2 * LABELS[0], []
    for arm, baseline in drawn:
        images = np.stack([*arm, *baseline], axis=2)  # (seeds, images, 1 + budgets)
        intervals = [interval_of_labels(images.mean(axis=1), numbers, generator, each)[1:] for each in (None, images)]
        covered.append([low <= truth <= high for low, high in intervals])
    seeds, both = np.mean(covered, axis=0)
    return {"labels, seeds": seeds, "labels, both": both}


def measured(rng: int, count: int, seeds: int, images: int, image_effect: float) -> dict[str, float]:
    """Return every share for one number of seeds and images."""
    generator = np.random.default_rng([rng, seeds, images, round(1000 * image_effect)])

    def drawn(*arms: Accuracies) -> Iterator[list[list[np.ndarray]]]:
        return comparisons(generator, count, seeds, images, image_effect, *arms)

    shares, gain = false_verdicts(drawn(ACCURACIES, ACCURACIES))
    # The better arm is as far above this accuracy as the baseline is below it.
    middle = ACCURACIES[1]
    power = found(drawn((middle + gain / 2,), (middle - gain / 2,)), gain)
    # Twice the labels are half a step of the budgets.
    half = (ACCURACIES[0] + ACCURACIES[1]) / 2
    return {**power, **shares, **labels_covered(drawn((half,), ACCURACIES), generator)}


def main() -> None:
    """Print a table with a row for each number of seeds and images, and a column for each property."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--images", type=int, nargs="+", default=[100, 360, 1000, 10_000])
    parser.add_argument("--image-effects", type=float, nargs="+", default=[0.0, 0.3, 0.8])
    parser.add_argument("--rng", type=int, default=0, help="seed of all draws")
    a = parser.parse_args()
    # statsmodels' multipletests collects garbage at each call, which takes 0.4 s with PyTorch loaded.
    gc.freeze()
    print(f"{a.comparisons:,} comparisons; a share of 95% has a standard error of ", end="")
    print(f"{np.sqrt(0.95 * 0.05 / a.comparisons):.1%}. Shares are in percent.\n")
    for k, (effect, seeds, images) in enumerate(itertools.product(a.image_effects, a.seeds, a.images)):
        shares = measured(a.rng, a.comparisons, seeds, images, effect)
        if k == 0:
            heads = ["image effect", "seeds", "images", *shares]
            print(f"| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
        cells = [f"{effect:g}", f"{seeds}", f"{images:,}", *(f"{100 * share:.1f}" for share in shares.values())]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
