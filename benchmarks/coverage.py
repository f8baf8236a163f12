"""Measure how often the intervals of a comparison cover the truth, and how often its verdicts are false or missed.

Comparisons are drawn at random: the label subset moves both arms of a seed alike, each run has noise of its own, and
the test set is finite. The package's functions then judge them, as in a report.

    python benchmarks/coverage.py     # about a minute
"""

import argparse
import gc
import itertools

import numpy as np
import pandas as pd

from pretrain.comparison.hypothesis_tests import detectable_effect, paired_p
from pretrain.comparison.label_efficiency import interval_of_labels
from pretrain.comparison.paired_differences import bootstrap_interval, estimate
from pretrain.comparison.verdicts import compare_arms, verdict

BASE_ACCURACY = 0.5  # accuracy of both arms with the fewest labels
RISE_PER_DOUBLING = 0.05  # rise of accuracy for twice the labels
SUBSET_SPREAD, RUN_SPREAD = 0.01, 0.003  # standard deviations over label subsets and over runs
TEST_IMAGES = 10_000
FEWEST_LABELS = 100  # labels of the first budget; each further one has four times as many


def draw(
    generator: np.random.Generator, comparisons: int, budgets: int, seeds: int, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return test accuracies of the baseline and of an arm better by `gain`, (comparisons, seeds, budgets) each."""
    shape = comparisons, seeds, budgets
    # Both arms of a seed share the curve.
    curve = BASE_ACCURACY + 2 * RISE_PER_DOUBLING * np.arange(budgets) + generator.normal(0, SUBSET_SPREAD, shape)
    true = [curve + extra + generator.normal(0, RUN_SPREAD, shape) for extra in (0, gain)]
    baseline, arm = (generator.binomial(TEST_IMAGES, p) / TEST_IMAGES for p in true)
    return baseline, arm


def spread() -> float:
    """Return the standard deviation of paired differences with the fewest labels."""
    return float(np.sqrt(2 * (RUN_SPREAD**2 + BASE_ACCURACY * (1 - BASE_ACCURACY) / TEST_IMAGES)))


def coverage(generator: np.random.Generator, comparisons: int, seeds: int) -> dict[str, float]:
    """Return how often intervals cover the true difference, and how often a detectable one is found."""
    gain = detectable_effect(seeds) * spread()
    baseline, arm = draw(generator, comparisons, 1, seeds, gain)
    differences = (arm - baseline)[:, :, 0]
    by_t = [estimate(x) for x in differences]
    by_bootstrap = [bootstrap_interval(x, generator) for x in differences]
    helps = [verdict(d, paired_p(x)) == "helps" for d, x in zip(by_t, differences, strict=True)]
    return {
        "t interval covers": float(np.mean([d.low <= gain <= d.high for d in by_t])),
        "bootstrap interval covers": float(np.mean([low <= gain <= high for low, high in by_bootstrap])),
        "detectable difference is found": float(np.mean(helps)),
    }


def false_verdicts(generator: np.random.Generator, comparisons: int, budgets: int, seeds: int) -> dict[str, float]:
    """Return how often an arm equal to the baseline gets a verdict at any of its budgets."""
    baseline, arm = draw(generator, comparisons, budgets, seeds, 0.0)
    index = pd.DataFrame(itertools.product(("scratch", "arm"), range(seeds), range(budgets)))
    index.columns = pd.Index(["arm", "seed", "labels"])
    said = []
    for values in zip(baseline, arm, strict=True):
        compared = compare_arms(index.assign(test_accuracy=np.ravel(values)), "scratch")
        said.append({c.verdict for c in compared})
    wrong = {"helps": {"helps"}, "hurts": {"hurts"}, "either": {"helps", "hurts"}}
    return {f"false verdict: {name}": float(np.mean([bool(s & words) for s in said])) for name, words in wrong.items()}


def labels_coverage(generator: np.random.Generator, comparisons: int, budgets: int, seeds: int) -> dict[str, float]:
    """Return how often the interval of the labels needed covers the truth, for an arm that halves them."""
    baseline, arm = draw(generator, comparisons, budgets, seeds, RISE_PER_DOUBLING)
    numbers = FEWEST_LABELS * 4 ** np.arange(budgets)
    together = np.concatenate([arm[:, :, :1], baseline], axis=2)
    intervals = [interval_of_labels(x, numbers, generator) for x in together]
    return {"labels-needed interval covers": float(np.mean([lo <= 2 * FEWEST_LABELS <= hi for _, lo, hi in intervals]))}


def main() -> None:
    """Print a table with a row for each property and a column for each number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--budgets", type=int, default=3, help="label budgets of an arm, two or more")
    parser.add_argument("--rng", type=int, default=0, help="seed of all draws")
    a = parser.parse_args()
    # statsmodels' multipletests collects garbage at each call, which takes 0.4 s with PyTorch loaded.
    gc.freeze()
    columns = {}
    for seeds in a.seeds:
        generator = np.random.default_rng([a.rng, seeds])
        columns[f"n = {seeds}"] = {
            **coverage(generator, a.comparisons, seeds),
            **false_verdicts(generator, a.comparisons, a.budgets, seeds),
            **labels_coverage(generator, a.comparisons, a.budgets, seeds),
        }
    print(f"{a.comparisons:,} comparisons, {a.budgets} budgets; a share of 95% has a standard error of ", end="")
    print(f"{np.sqrt(0.95 * 0.05 / a.comparisons):.1%}")
    print(pd.DataFrame(columns).map("{:.1%}".format).to_string())


if __name__ == "__main__":
    main()
