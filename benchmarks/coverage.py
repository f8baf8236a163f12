"""Are the statistics of a comparison right? How often intervals cover the truth and verdicts are false or missed.

Comparisons are drawn as real ones vary: the subset of labels moves both arms of a seed alike, each run has noise of
its own, and a test set of finite size is read. Then the package's own functions judge them, as a report does.

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

ACCURACY = 0.5  # of both arms with the fewest labels
RISE = 0.05  # of accuracy for twice the labels
SUBSET, RUN = 0.01, 0.003  # standard deviations over label subsets and over runs
TEST_IMAGES = 10_000
FEWEST = 100  # labels; each further budget has four times as many


def draw(
    generator: np.random.Generator, comparisons: int, budgets: int, seeds: int, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return test accuracies of the baseline and of an arm better by `gain`, (comparisons, seeds, budgets) each."""
    shape = comparisons, seeds, budgets
    curve = (
        ACCURACY + 2 * RISE * np.arange(budgets) + generator.normal(0, SUBSET, shape)
    )  # both arms of a seed share it
    true = [curve + extra + generator.normal(0, RUN, shape) for extra in (0, gain)]
    baseline, arm = (generator.binomial(TEST_IMAGES, p) / TEST_IMAGES for p in true)
    return baseline, arm


def spread() -> float:
    """Return the standard deviation of paired differences with the fewest labels."""
    return float(np.sqrt(2 * (RUN**2 + ACCURACY * (1 - ACCURACY) / TEST_IMAGES)))


def coverage(generator: np.random.Generator, comparisons: int, seeds: int) -> dict[str, float]:
    """Return how often the intervals cover the true difference, and how often it is found at the detectable size."""
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
    """Return how often an arm that is no better and no worse gets a verdict at any of its budgets."""
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
    """Return how often the interval of the labels needed covers the truth: the arm halves the labels needed."""
    baseline, arm = draw(generator, comparisons, budgets, seeds, RISE)
    numbers = FEWEST * 4 ** np.arange(budgets)
    together = np.concatenate([arm[:, :, :1], baseline], axis=2)
    intervals = [interval_of_labels(x, numbers, generator) for x in together]
    return {"labels-needed interval covers": float(np.mean([lo <= 2 * FEWEST <= hi for _, lo, hi in intervals]))}


def main() -> None:
    """Print a table: a row a property, a column a number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--budgets", type=int, default=3, help="label budgets of an arm, two or more")
    parser.add_argument("--rng", type=int, default=0, help="seed of all draws")
    a = parser.parse_args()
    gc.freeze()  # statsmodels' multipletests collects garbage at each call, which takes 0.4 s with PyTorch loaded
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
