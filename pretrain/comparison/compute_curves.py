"""Accuracy over total compute: the runs of an arm with several multiples of its steps, and what lies between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pretrain.comparison.crossed_effects import ROUNDING, CrossedEffects, image_covariance

Unit = Literal["flops", "seconds"]
# Seconds are rounded to this in a summary, so nothing costs less.
LEAST_COST = 1e-3


@dataclass(frozen=True)
class Curve:
    """Accuracy of one arm at one label budget over its total cost.

    Between the multiples that were run, accuracy is interpolated linearly in the logarithm of the cost of fine-tuning.
    It is then the same function of the length of fine-tuning, whatever share of pretraining is charged.

    Attributes
    ----------
    pretraining : float
        Charge for pretraining, in floating-point operations or in seconds.
    finetuning : ndarray, (k,)
        Cost of fine-tuning with each multiple of the steps, a mean over seeds, in increasing order.
    values : ndarray, (n, m, k)
        For each seed, image and multiple, 1 where the run was right, else 0. Where runs kept no predictions, m is 1 and
        the values are accuracies.
    """

    pretraining: float
    finetuning: np.ndarray
    values: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        """Total cost of the runs with each multiple, (k,)."""
        return self.pretraining + self.finetuning

    @property
    def range(self) -> tuple[float, float]:
        """Least and most total cost."""
        return float(self.totals[0]), float(self.totals[-1])

    def weights(self, totals: np.ndarray) -> np.ndarray:
        """Return the weights of the runs, (t, k), that give the accuracy at total costs, (t,), within their range."""
        rest = np.maximum(totals - self.pretraining, LEAST_COST)
        at = [np.interp(np.log(rest), np.log(self.finetuning), one) for one in np.eye(len(self.finetuning))]
        return np.stack(at, axis=1)


@dataclass(frozen=True)
class Moments:
    """Means of several runs over seeds and images, with what seeds and images each add to their covariance.

    Attributes
    ----------
    seeds, images : int
        Number of each; 0 images where runs kept no predictions.
    means : ndarray, (k,)
        Mean of each run over both.
    of_seeds, of_images : ndarray, (k, k)
        Covariance of the means of a single seed, and covariance that images give to the means over seeds.
    """

    seeds: int
    images: int
    means: np.ndarray
    of_seeds: np.ndarray
    of_images: np.ndarray

    def combined(self, weights: np.ndarray) -> list[CrossedEffects]:
        """Return the mean and the variances of weighted sums of the runs, for each row of weights, (t, k)."""
        means = weights @ self.means
        means[np.abs(means) < ROUNDING] = 0
        by_seed, by_image = (
            np.einsum("ti,ij,tj->t", weights, covariance, weights) for covariance in (self.of_seeds, self.of_images)
        )
        for variance in (by_seed, by_image):
            variance[variance < ROUNDING**2] = 0
        each = zip(means, by_seed, by_image, strict=True)
        return [CrossedEffects(self.seeds, self.images, *map(float, parts)) for parts in each]


def moments(values: np.ndarray) -> Moments:
    """Return the moments of values, (n, m, k). A single seed has no covariance, and a single image adds none."""
    seeds, images, k = values.shape
    of_seeds = np.full((k, k), np.nan)
    if seeds > 1:
        of_seeds = np.cov(values.mean(axis=1), rowvar=False, ddof=1).reshape(k, k)
    of_images = image_covariance(values) if seeds > 1 and images > 1 else np.zeros((k, k))
    return Moments(seeds, images if images > 1 else 0, values.mean(axis=(0, 1)), of_seeds, of_images)


def complete_seeds(runs: pd.DataFrame) -> list[int]:
    """Return the seeds that have a run with every multiple, among the runs of one arm at one label budget.

    Raises
    ------
    ValueError
        When a seed has two runs with the same multiple.
    """
    table = runs.dropna(subset="test_accuracy").pivot(index="seed", columns="compute", values="test_accuracy")
    return [int(seed) for seed in table.dropna().index]


def kept_by_all(runs: pd.DataFrame) -> bool:
    """Return whether every run kept its predictions, all for equally many images."""
    kept = [correct for correct in runs["correct"] if correct is not None]
    return len(kept) == len(runs) and len({len(correct) for correct in kept}) == 1


def curve(runs: pd.DataFrame, seeds: Sequence[int], unit: Unit, shared_by: int, by_image: bool) -> Curve:
    """Return the curve of one arm at one label budget.

    Parameters
    ----------
    runs : DataFrame
        Runs of the arm at the budget.
    seeds : sequence of int
        Seeds to use, from `complete_seeds`.
    unit : {"flops", "seconds"}
        What costs are counted in.
    shared_by : int
        Number of trainings that share one pretraining, each of which is charged its part; 0 where there is none.
    by_image : bool
        Whether to keep the images apart, which needs the predictions of all runs.
    """
    own = runs[runs["seed"].isin(seeds)].sort_values(["compute", "seed"])
    multiples = [group for _, group in own.groupby("compute")]
    costs = np.maximum([group[f"finetune_{unit}"].mean() for group in multiples], LEAST_COST)
    # Multiples may be so close that they have equally many steps. One of them is enough.
    finetuning, first = np.unique(costs, return_index=True)
    values = [_values(multiples[k], by_image) for k in first]
    return Curve(float(own[f"pretrain_{unit}"].mean()) / max(shared_by, 1), finetuning, np.stack(values, axis=2))


def _values(runs: pd.DataFrame, by_image: bool) -> np.ndarray:
    """Return the values of runs with one multiple, (n, m)."""
    if by_image:
        return np.stack([*runs["correct"]]).astype(float)
    return runs["test_accuracy"].to_numpy(float)[:, None]


@dataclass(frozen=True)
class PairedCurves:
    """The curves of an arm and of the baseline, of the same seeds and images.

    Attributes
    ----------
    arm, baseline : Curve
        The curves.
    moments : Moments
        Moments of the runs of the arm, and then of those of the baseline.
    """

    arm: Curve
    baseline: Curve
    moments: Moments

    @property
    def overlap(self) -> tuple[float, float]:
        """Least and most total compute that both were run with; the least is more where there is none."""
        both = self.arm.totals, self.baseline.totals
        return float(max(totals[0] for totals in both)), float(min(totals[-1] for totals in both))

    @property
    def arm_is_cheaper(self) -> bool:
        """Whether every run of the arm costs less than any run of the baseline."""
        return bool(self.arm.totals[-1] < self.baseline.totals[0])

    def differences(self, totals: Sequence[float] | np.ndarray) -> list[CrossedEffects]:
        """Return the difference of the arm from the baseline with each total compute, all within the overlap."""
        at = np.asarray(totals, dtype=float)
        return self.moments.combined(np.hstack([self.arm.weights(at), -self.baseline.weights(at)]))

    def gap(self) -> CrossedEffects:
        """Return the difference between the runs that are nearest in compute, of curves that do not overlap."""
        weights = np.zeros((1, len(self.moments.means)))
        of_arm, of_baseline = (len(self.arm.totals) - 1, len(self.arm.totals)) if self.arm_is_cheaper else (0, -1)
        weights[0, of_arm], weights[0, of_baseline] = 1, -1
        return self.moments.combined(weights)[0]

    def enough(self) -> float | None:
        """Return how many times the steps of its longest runs the cheaper arm needs to cost as much as the other.

        None where its length does not vary: a fitted head has no steps, and a compute-matched arm has them given.
        """
        cheaper, other = (self.arm, self.baseline) if self.arm_is_cheaper else (self.baseline, self.arm)
        if len(cheaper.finetuning) < 2:
            return None
        return float((other.totals[0] - cheaper.pretraining) / cheaper.finetuning[-1])


def paired_curves(runs: pd.DataFrame, arm: str, baseline: str, shared_by: int) -> PairedCurves | None:
    """Return the curves of two arms at one label budget, in floating-point operations.

    Parameters
    ----------
    runs : DataFrame
        Runs at the label budget.
    arm, baseline : str
        Names of the two arms.
    shared_by : int
        Number of trainings that share one pretraining.

    Returns
    -------
    PairedCurves or None
        None where no seed has all the runs of both.
    """
    of_both = [runs[runs["arm"] == name] for name in (arm, baseline)]
    seeds = sorted(set(complete_seeds(of_both[0])) & set(complete_seeds(of_both[1])))
    if not seeds:
        return None
    used = pd.concat(of_both)
    by_image = kept_by_all(used[used["seed"].isin(seeds)])
    of_arm, of_baseline = (curve(each, seeds, "flops", shared_by, by_image) for each in of_both)
    return PairedCurves(of_arm, of_baseline, moments(np.concatenate([of_arm.values, of_baseline.values], axis=2)))
