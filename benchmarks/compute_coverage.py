"""Measure how honest the comparison at equal total compute is: its intervals, its crossing and its verdicts.

Comparisons of two arms are drawn at random. Each seed moves both arms alike and each arm by itself; each image is easy
or hard for both and for each, and the same ones are so for every seed. The package's functions then judge them, as in
a report. Effects are as large as on the digits with 200 labels (360 test images), where the standard error of a
difference over ten seeds is 0.43 points over seeds, and 0.72 points over seeds and images.

    python benchmarks/compute_coverage.py     # about five minutes
"""

import argparse
import gc
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pretrain.comparison.compute_frontier import ComputeFrontier, compute_frontiers

MULTIPLES = (1.0, 4.0, 16.0)
PRETRAINING = 4.0  # compute of pretraining, where that of the recipe's own steps is 1
CROSSING = 9.0  # total compute where the curves cross
SHARED_BY = 10  # trainings that share one pretraining
START, RISE = 0.75, 0.12  # accuracy from scratch with the recipe's own steps, and its rise up to 16 times as many

# Standard deviations on the probit scale, where the noise of a single prediction has 1.
COMMON_IMAGES, OWN_IMAGES = 5.0, 0.72
COMMON_SEEDS, OWN_SEEDS, RUNS = 0.3, 0.08, 0.05


Shape = Callable[[ArrayLike], np.ndarray]
Rates = dict[str, float]


def draw(generator: np.random.Generator, accuracies: np.ndarray, seeds: int, images: int) -> np.ndarray:
    """Return which images runs classify correctly, (arms, multiples, seeds, images), given their true accuracies."""
    arms, multiples = accuracies.shape
    parts = [
        generator.normal(0, COMMON_IMAGES, (1, 1, 1, images)) + generator.normal(0, COMMON_SEEDS, (1, 1, seeds, 1)),
        generator.normal(0, OWN_IMAGES, (arms, 1, 1, images)) + generator.normal(0, OWN_SEEDS, (arms, 1, seeds, 1)),
        generator.normal(0, RUNS, (arms, multiples, seeds, 1)),
    ]
    # Single precision is enough for noise, and twice as fast.
    noise = generator.standard_normal((arms, multiples, seeds, images), dtype=np.float32)
    variances = COMMON_IMAGES**2 + OWN_IMAGES**2 + COMMON_SEEDS**2 + OWN_SEEDS**2 + RUNS**2 + 1
    # Over seeds and images, the mean of each run is then its true accuracy.
    at = stats.norm.ppf(accuracies) * np.sqrt(variances)
    return noise + sum(part.astype(np.float32) for part in parts) + at[:, :, None, None].astype(np.float32) > 0


def compared(correct: np.ndarray, labels: int = 100, by_image: bool = True) -> pd.DataFrame:
    """Return the runs of a comparison at one budget, in the form of `Results.runs_by_compute`."""
    arms, multiples, seeds, _ = correct.shape
    return pd.DataFrame(
        {
            **{"arm": ("scratch", "pretrained")[arm], "labels": labels, "seed": seed, "compute": MULTIPLES[k]},
            **{"pretrain_flops": PRETRAINING * arm, "finetune_flops": MULTIPLES[k]},
            "test_accuracy": correct[arm, k, seed].mean(),
            "correct": correct[arm, k, seed] if by_image else None,
        }
        for arm, k, seed in itertools.product(range(arms), range(multiples), range(seeds))
    )


def curves(lead: float, shape: Shape) -> np.ndarray:
    """Return the true accuracies, (2, multiples), of scratch and of an arm that leads with equal steps."""
    risen = shape(np.array(MULTIPLES))
    return START + np.stack([risen, risen + lead])


def straight(multiples: ArrayLike) -> np.ndarray:
    """Return a rise in proportion to the logarithm of the steps, which interpolation finds exactly."""
    return RISE * np.log(multiples) / np.log(MULTIPLES[-1])


def saturating(multiples: ArrayLike) -> np.ndarray:
    """Return a rise as large over all multiples, but most of it at first: a power law, which interpolation bends."""
    return RISE * (1 - np.asarray(multiples) ** -0.5) / (1 - MULTIPLES[-1] ** -0.5)


SHAPES: dict[str, Shape] = {"straight": straight, "saturating": saturating}


def crossing(generator: np.random.Generator, comparisons: int, seeds: int, images: int, shape: Shape) -> Rates:
    """Return how often intervals hold the truth where pretraining pays from a known compute on."""
    lead = float(shape(CROSSING) - shape(CROSSING - PRETRAINING))
    true, said = curves(lead, shape), []
    for _ in range(comparisons):
        correct = draw(generator, true, seeds, images)
        found, alone = (judged(compared(correct, by_image=by_image)) for by_image in (True, False))
        said.append([_at_ends(found, lead, shape), _holds(found), _holds(alone), found.verdict])
    table = pd.DataFrame(said, columns=["ends", "set", "alone", "verdict"])
    turned = table["verdict"] == "pays from"
    return {
        "the interval of an end holds its difference": table["ends"].mean(),
        "the 95% set holds the crossing": table["set"].mean(),
        "... where the verdict is 'pays from'": table.loc[turned, "set"].mean(),
        "... by seeds alone": table["alone"].mean(),
        "the verdict is 'pays from'": turned.mean(),
        "the verdict is of the wrong sign": table["verdict"].isin(["pays", "pays up to", "hurts from"]).mean(),
    }


def judged(runs: pd.DataFrame) -> ComputeFrontier:
    """Return the frontier of a comparison with one budget, pretraining charged in full."""
    (full,) = compute_frontiers(runs, "scratch", shared_by=1)
    return full


def _holds(frontier: ComputeFrontier) -> bool:
    return any(low <= CROSSING <= high for low, high in frontier.unclear)


def _at_ends(frontier: ComputeFrontier, lead: float, shape: Shape) -> float:
    """Return the share of the two ends whose interval holds the true difference with that compute."""
    true = [lead + float(shape(end.total - PRETRAINING) - shape(end.total)) for end in frontier.ends]
    claimed = [end.estimate.claimed for end in frontier.ends]
    held = [low <= t <= high for (low, high), t in zip(claimed, true, strict=True)]
    return float(np.mean(held))


def false_verdicts(generator: np.random.Generator, comparisons: int, seeds: int, images: int, budgets: int) -> Rates:
    """Return how often arms that are equally accurate with any compute get a verdict at any of their budgets."""
    flat, said = curves(0.0, lambda c: 0 * np.asarray(c)), []
    for _ in range(comparisons):
        drawn = [draw(generator, flat, seeds, images) for _ in range(budgets)]
        by_image, alone = (
            pd.concat([compared(correct, labels=k, by_image=kept) for k, correct in enumerate(drawn, 1)])
            for kept in (True, False)
        )
        found, of_seeds = compute_frontiers(by_image, "scratch", SHARED_BY), compute_frontiers(alone, "scratch", 1)
        said.append([_signs(found, {1}), _signs(found, {1, SHARED_BY}), _signs(of_seeds, {1})])
    full, either, seeds_alone = ([bool(s[k]) for s in said] for k in range(3))
    return {
        f"equal arms, {budgets} budget{'s' * (budgets > 1)}: false verdict": float(np.mean(full)),
        f"... 'pays' ({budgets})": float(np.mean(["pays" in s[0] for s in said])),
        f"... with either charge ({budgets})": float(np.mean(either)),
        f"... by seeds alone ({budgets})": float(np.mean(seeds_alone)),
    }


def _signs(frontiers: list[ComputeFrontier], charges: set[int]) -> set[str]:
    words = {f.verdict.split()[0] for f in frontiers if f.shared_by in charges}
    return words & {"pays", "hurts"}


def main() -> None:
    """Print a table with a row for each property and a column for each number of seeds and images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--images", type=int, nargs="+", default=[360, 10_000])
    parser.add_argument("--shape", choices=SHAPES, default="straight", help="how accuracy rises with compute")
    parser.add_argument("--rng", type=int, default=0, help="seed of all draws")
    a = parser.parse_args()
    # statsmodels' multipletests collects garbage at each call, which takes 0.4 s with PyTorch loaded.
    gc.freeze()
    columns = {}
    for images, seeds in itertools.product(a.images, a.seeds):
        generator = np.random.default_rng([a.rng, seeds, images])
        columns[f"n = {seeds}, {images:,} images"] = {
            **crossing(generator, a.comparisons, seeds, images, SHAPES[a.shape]),
            **false_verdicts(generator, a.comparisons, seeds, images, 1),
            **false_verdicts(generator, a.comparisons // 3, seeds, images, 3),
        }
    print(
        f"{a.comparisons:,} comparisons ({a.comparisons // 3:,} of 3 budgets); a share of 95% has a standard error of"
    )
    print(f"{np.sqrt(0.95 * 0.05 / a.comparisons):.1%}")
    print(pd.DataFrame(columns).map("{:.1%}".format).to_string())


if __name__ == "__main__":
    main()
