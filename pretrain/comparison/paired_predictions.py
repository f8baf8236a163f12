"""The predictions of two arms for the same test images, paired by seed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pretrain.comparison.finished_runs import finished_runs
from pretrain.comparison.plan import Comparison


@dataclass(frozen=True)
class PairedPredictions:
    """What an arm and the baseline predicted at one label budget, over the seeds that both have.

    Attributes
    ----------
    arm, baseline : str
        Names of the two arms.
    labels : int
        Label budget.
    truth : ndarray, (m,), int
        Class of each test image.
    of_arm, of_baseline : ndarray, (n, m), int
        Class that each predicted, for each seed and image.
    """

    arm: str
    baseline: str
    labels: int
    truth: np.ndarray
    of_arm: np.ndarray
    of_baseline: np.ndarray

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.of_arm)

    @property
    def arm_correct(self) -> np.ndarray:
        """Whether the arm is right, (n, m), bool."""
        return self.of_arm == self.truth

    @property
    def baseline_correct(self) -> np.ndarray:
        """Whether the baseline is right, (n, m), bool."""
        return self.of_baseline == self.truth


def pair_predictions(runs: pd.DataFrame, truth: np.ndarray | None, arm: str, baseline: str) -> list[PairedPredictions]:
    """Pair the predictions of two arms at each label budget, the smallest first.

    The order of the rows changes nothing.

    Parameters
    ----------
    runs : DataFrame
        One row for each run, with the columns arm, labels, seed and predicted: the class given to each image, (m,), or
        None where a run kept no predictions.
    truth : ndarray, (m,), int, optional
        Class of each test image; None where no run kept predictions.
    arm, baseline : str
        Names of the two arms.
    """
    if truth is None or not len(runs):
        return []
    kept = runs[runs["arm"].isin([arm, baseline]) & runs["predicted"].notna()]
    table = kept.pivot(index=["labels", "seed"], columns="arm", values="predicted")
    if not {arm, baseline} <= set(table):
        return []
    table = table[[arm, baseline]].dropna()
    return [
        PairedPredictions(arm, baseline, int(labels), truth, np.stack([*group[arm]]), np.stack([*group[baseline]]))  # type: ignore[call-overload]
        for labels, group in table.groupby(level="labels")
    ]


def read_paired_predictions(comparison: Comparison) -> list[PairedPredictions]:
    """Return the predictions of the main arm and the baseline, as far as their runs are complete and undamaged."""
    main = comparison.main_arm
    if main is None:
        return []
    found = finished_runs(comparison, {main, comparison.baseline})
    runs = [(task.arm, summary["labels"], task.seed, kept) for task, summary, kept in found if kept]
    columns = ["arm", "labels", "seed", "predicted"]
    rows = pd.DataFrame([(*run[:3], run[3].predicted) for run in runs], columns=columns)
    return pair_predictions(rows, runs[0][3].labels if runs else None, main, comparison.baseline)
