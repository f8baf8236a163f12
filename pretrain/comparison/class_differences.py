"""Differences by class: in which classes an arm recognizes more test images than the baseline, or fewer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrain.comparison.crossed_effects import crossed_effects
from pretrain.comparison.hypothesis_tests import holm_corrected
from pretrain.comparison.paired_differences import NAN, SEEDS_FOR_A_CLAIM, SIGNIFICANCE_LEVEL
from pretrain.comparison.paired_predictions import PairedPredictions
from pretrain.comparison.sequential_looks import ONE_LOOK, Looks


@dataclass(frozen=True)
class ClassDifference:
    """The recall of an arm minus that of the baseline, in one class and at one label budget.

    Attributes
    ----------
    arm, baseline : str
        Names of the two arms.
    labels : int
        Label budget.
    name : str
        Name of the class.
    images : int
        Number of test images of the class, at least one.
    arm_recall, baseline_recall : float
        Share of these images that each classifies correctly, as a mean over seeds.
    by_seed : tuple of float
        Difference at each seed.
    low, high : float
        Bounds of the 95% interval for new seeds and new images of the class, which is never within that for new seeds
        alone; NaN for fewer than two of either.
    p, p_corrected : float
        Two-sided p value that holds for new seeds and new images, as it is and after Holm's correction over the
        classes; NaN where there is no interval. It is never below that of the paired t test over seeds.
    """

    arm: str
    baseline: str
    labels: int
    name: str
    images: int
    arm_recall: float
    baseline_recall: float
    by_seed: tuple[float, ...]
    low: float = NAN
    high: float = NAN
    p: float = NAN
    p_corrected: float = NAN

    @property
    def mean(self) -> float:
        """The mean difference over the seeds, as a fraction of 1."""
        return self.arm_recall - self.baseline_recall

    @property
    def is_detectable(self) -> bool:
        """Whether there is a difference that so many seeds may claim."""
        return len(self.by_seed) >= SEEDS_FOR_A_CLAIM and self.p_corrected < SIGNIFICANCE_LEVEL


def class_differences(
    paired: PairedPredictions, classes: Sequence[str], looks: Looks = ONE_LOOK
) -> list[ClassDifference]:
    """Compare an arm with the baseline in each class that has test images, the class that gains most first.

    Parameters
    ----------
    paired : PairedPredictions
        Predictions of both.
    classes : sequence of str
        Names of the classes, in the order of their numbers. Of equal gains, the first in this order comes first.
    looks : Looks
        Looks at the results that p values and intervals allow for.
    """
    arm, baseline = paired.arm_correct, paired.baseline_correct
    numbers = np.unique(paired.truth)
    members = [paired.truth == k for k in numbers]
    tested = [_tested(arm[:, of_class], baseline[:, of_class], looks.level) for of_class in members]
    there = [k for k, values in enumerate(tested) if not np.isnan(values["p"])]
    values_of_p = [looks.corrected(tested[k]["p"]) for k in there]
    corrected = dict(zip(there, holm_corrected(values_of_p) if there else [], strict=True))
    found = [
        ClassDifference(
            arm=paired.arm,
            baseline=paired.baseline,
            labels=paired.labels,
            name=classes[number],
            images=int(of_class.sum()),
            **values,
            p_corrected=corrected.get(k, NAN),
        )
        for k, (number, of_class, values) in enumerate(zip(numbers, members, tested, strict=True))
    ]
    return sorted(found, key=lambda each: -round(each.mean, 12))


def _tested(arm: np.ndarray, baseline: np.ndarray, level: float) -> dict[str, Any]:
    """Return the differences between what is correct, (n, m) each, with their interval and p."""
    x = arm.astype(float) - baseline
    # Rounding makes equal differences equal: those of floats are so only nearly.
    by_seed = x.mean(axis=1).round(12)
    recalls = {"arm_recall": float(arm.mean()), "baseline_recall": float(baseline.mean())}
    values = {**recalls, "by_seed": tuple(by_seed.tolist()), "low": NAN, "high": NAN, "p": NAN}
    if min(x.shape) < 2:
        return values
    effects = crossed_effects(x)
    low, high = np.clip(effects.interval(1 - level), -1, 1).tolist()
    return {**values, "low": low, "high": high, "p": effects.p}


def class_rows(found: Sequence[ClassDifference]) -> list[dict[str, Any]]:
    """Return differences by class as plain values for results.json, where NaN is null."""
    rows = (
        {
            **{"arm": each.arm, "baseline": each.baseline, "labels": each.labels, "class": each.name},
            **{"images": each.images, "n": len(each.by_seed), "mean": each.mean, "low": each.low, "high": each.high},
            **{"p": each.p, "p_holm": each.p_corrected, "by_seed": list(each.by_seed)},
            **{"arm_recall": each.arm_recall, "baseline_recall": each.baseline_recall},
        }
        for each in found
    )
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]
