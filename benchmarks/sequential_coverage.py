"""Measure how often comparisons with seeds=auto give a false verdict, whatever ends them, and what they cost.

Differences between two equal arms are drawn for each seed and test image, with effects of both, which all looks share.
The package's functions judge them after 5, 10, 20 and 40 seeds. Three users end them: one by the width of the interval,
one as soon as there is a verdict, and one as soon as there would be a verdict without correction for the looks (of
which Bonferroni's correction over the budgets is left).

    python benchmarks/sequential_coverage.py     # a few minutes
"""

import argparse
import gc
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from pretrain.comparison.crossed_effects import CrossedEffects, crossed_effects
from pretrain.comparison.hypothesis_tests import holm_corrected, paired_p
from pretrain.comparison.paired_differences import SIGNIFICANCE_LEVEL
from pretrain.comparison.sequential_looks import Looks, doubling_looks

MOST = (5, 10, 20, 40)
BUDGETS = 3


class Spread(NamedTuple):
    """Standard deviations of the difference, in points, over seeds, over images, and of a seed at an image."""

    seeds: float
    images: float
    noise: float
    test_images: int
    kept: bool = True  # whether runs kept predictions, so that intervals hold for other images


# With 360 images, those of the digits were measured (200 labels, `pretrained-frozen` against `scratch`, ten seeds):
# standard errors of 0.43 points over seeds and 0.72 over seeds and images.
SPREADS = {
    "no predictions": Spread(1.36, 0, 0, 1, kept=False),
    "no image effects": Spread(0.86, 0, 20, 360),
    "as measured": Spread(0.86, 10.9, 20, 360),
    "images three times": Spread(0.86, 33, 20, 360),
    "100 images": Spread(0.86, 10.9, 20, 100),
    "seeds three times": Spread(2.6, 10.9, 20, 360),
}


def draw(generator: np.random.Generator, spread: Spread) -> np.ndarray:
    """Return differences in points without a true one, (seeds, images)."""
    of_seeds = generator.normal(0, spread.seeds, (MOST[-1], 1))
    of_images = generator.normal(0, spread.images, (1, spread.test_images))
    return of_seeds + of_images + generator.normal(0, spread.noise, (MOST[-1], spread.test_images))


class Judged(NamedTuple):
    """What the package says of a comparison, by label budget and look."""

    means: np.ndarray
    errors: np.ndarray  # standard errors, over seeds and images
    freedom: np.ndarray
    errors_of_seeds: np.ndarray
    p: np.ndarray

    def reach(self, looks: Looks) -> np.ndarray:
        """Return how far intervals reach to each side, as `estimate` has them."""
        over_both = stats.t.isf(looks.level / 2, self.freedom) * self.errors
        over_seeds = stats.t.isf(looks.level / 2, np.array(MOST) - 1) * self.errors_of_seeds
        return np.maximum(over_both, over_seeds)[:, : len(looks.seeds)]


def judged(generator: np.random.Generator, spread: Spread) -> Judged:
    """Draw a comparison, and return what the package says of it."""
    budgets = [draw(generator, spread) for _ in range(BUDGETS)]
    found = np.array([[estimated(values[:n], spread) for n in MOST] for values in budgets])
    return Judged(*np.moveaxis(found, 2, 0))


def estimated(values: np.ndarray, spread: Spread) -> tuple[float, ...]:
    """Return the fields of `Judged` from differences, (seeds, images)."""
    x = values.mean(axis=1)
    of_seeds = CrossedEffects(len(x), 0, float(x.mean()), float(x.var(ddof=1)), 0.0)
    both = crossed_effects(values) if spread.kept else of_seeds
    p = paired_p(x, values if spread.kept else None)
    return both.mean, np.sqrt(both.variance), both.degrees_of_freedom, np.sqrt(of_seeds.variance), p


def outcome(found: Judged, looks: Looks, width: float) -> dict[str, float]:
    """Return what each user gets of a comparison."""
    p, reach, means = found.p[:, : len(looks.seeds)], found.reach(looks), found.means[:, : len(looks.seeds)]
    corrected = np.array([holm_corrected([looks.corrected(each) for each in at_look]) for at_look in p.T])
    said = corrected.min(axis=1) < SIGNIFICANCE_LEVEL  # a verdict at some budget, by look
    narrow = reach.max(axis=0) <= width
    end = int(narrow.argmax()) if narrow.any() else len(looks.seeds) - 1
    return {
        "false verdict, ends by width": said[end],
        "false verdict, ends at the first": said.any(),
        "the same, with p values as they are": (p.min(axis=0) * BUDGETS < SIGNIFICANCE_LEVEL).any(),
        "intervals of all looks hold": (np.abs(means[0]) <= reach[0]).all(),
        "mean seeds, ends by width": looks.seeds[end],
    }


def main() -> None:
    """Print a table for each spread, with a column for each number of seeds at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=4000)
    parser.add_argument("--rng", type=int, default=0, help="seed of all draws")
    a = parser.parse_args()
    # statsmodels' multipletests collects garbage at each call, which takes 0.4 s with PyTorch loaded.
    gc.freeze()
    print(
        f"{a.comparisons:,} comparisons without a difference; verdicts over {BUDGETS} label budgets; a share of 5% ",
        end="",
    )
    print(f"has a standard error of {np.sqrt(0.95 * 0.05 / a.comparisons):.2%}")
    for k, (name, spread) in enumerate(SPREADS.items()):
        generator = np.random.default_rng([a.rng, k])
        comparisons = [judged(generator, spread) for _ in range(a.comparisons)]
        columns = {}
        for most in MOST:
            looks = doubling_looks(most)
            # Half of the comparisons are narrow enough by the second look, at 10 seeds.
            width = float(np.median([found.reach(looks)[:, :2].max(axis=0).min() for found in comparisons]))
            columns[f"most {most}"] = pd.DataFrame([outcome(found, looks, width) for found in comparisons]).mean()
        table = pd.DataFrame(columns)
        shown = table[:-1].map("{:.2%}".format)
        shown.loc[table.index[-1]] = table.iloc[-1].map("{:.1f}".format)
        print(f"\n{name}: {spread}\n{shown.to_string()}", flush=True)


if __name__ == "__main__":
    main()
