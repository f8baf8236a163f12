"""A gallery of test images that one arm classifies correctly in most seeds and the other does not.

Which images these are follows from the predictions that the runs kept. The images themselves are in the data set, so a
worker copies the few that are shown into the folder of the comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretrain.comparison.paired_predictions import PairedPredictions, read_paired_predictions
from pretrain.comparison.plan import Comparison
from pretrain.data.dataset import Dataset
from pretrain.errors import DamagedFileError, UserError, system_line
from pretrain.runs.progress import complain
from pretrain.runs.tensor_files import SUFFIX, load_state, save_state

GALLERY = f"gallery{SUFFIX}"
# As many are shown of those that only the arm gets right as of those that only the baseline does.
IMAGES_PER_SIDE = 12


@dataclass(frozen=True)
class Chosen:
    """The images that one arm gets right in more than half of the seeds and the other in less than half.

    Attributes
    ----------
    paired : PairedPredictions
        Predictions at the label budget that is shown.
    only_arm, only_baseline : tuple of int
        Positions of all images that only the one gets right; those come first on which most seeds agree.
    """

    paired: PairedPredictions
    only_arm: tuple[int, ...]
    only_baseline: tuple[int, ...]

    @property
    def shown(self) -> tuple[int, ...]:
        """Positions of the images that are shown, ascending."""
        return tuple(sorted((*self.only_arm[:IMAGES_PER_SIDE], *self.only_baseline[:IMAGES_PER_SIDE])))


def choose_images(paired: PairedPredictions) -> Chosen:
    """Return the images that only one of two arms gets right in most seeds."""
    # Whole numbers compare without rounding errors.
    arm, baseline, n = paired.arm_correct.sum(axis=0), paired.baseline_correct.sum(axis=0), paired.seeds
    gain = arm - baseline
    # A stable sort leaves images with equal gains in the order of their positions.
    order = np.argsort(-gain, kind="stable"), np.argsort(gain, kind="stable")
    only_arm, only_baseline = (2 * arm > n) & (2 * baseline < n), (2 * baseline > n) & (2 * arm < n)
    best = (order[0][only_arm[order[0]]], order[1][only_baseline[order[1]]])
    return Chosen(paired, *(tuple(positions.tolist()) for positions in best))


def choose_budget(budgets: Sequence[PairedPredictions]) -> Chosen | None:
    """Return the chosen images at the label budget where the two arms differ on most of them; None without budgets.

    Both directions count alike, so the choice favors neither arm. Of the budgets, those with most seeds are considered,
    and of equal ones the smallest is taken.
    """
    most = max((each.seeds for each in budgets), default=0)
    chosen = [choose_images(each) for each in budgets if each.seeds == most]
    return max(chosen, key=lambda each: len(each.only_arm) + len(each.only_baseline), default=None)


def keep_gallery(comparison: Comparison, data: Dataset) -> None:
    """Write the images that are shown into the folder of the comparison, unless they are there.

    A fault in this stops nothing: the report then goes without them.
    """
    file = Path(comparison.out) / GALLERY
    try:
        chosen = choose_budget(read_paired_predictions(comparison))
        if chosen is None or not chosen.shown or _holds(file, chosen.shown, data.labelled_digest):
            return
        # Each finished run has opened the test split already, and nothing selects on what is shown of it.
        test = data.open_test()
        positions = torch.tensor(chosen.shown)
        images = test.images[positions].contiguous()
        save_state(file, {"positions": positions, "images": images, "labelled_digest": data.labelled_digest})
    except (UserError, OSError) as error:
        line = system_line(error) if isinstance(error, OSError) else str(error)
        complain(f"note: the report has no gallery of test images: {line}")


def _holds(file: Path, positions: Sequence[int], labelled_digest: str) -> bool:
    """Return whether a file holds exactly these images."""
    try:
        return tuple(read_gallery(file, labelled_digest)) == tuple(positions)
    except DamagedFileError:
        return False


def read_gallery(file: Path, labelled_digest: str) -> dict[int, Tensor]:
    """Return the images, (C, H, W), uint8, in a file of `keep_gallery` by their positions; none of other data.

    Raises
    ------
    DamagedFileError
        When the file is missing, or is not what was written.
    """
    state = load_state(file)
    try:
        if state["labelled_digest"] != labelled_digest:
            return {}
        return dict(zip(state["positions"].tolist(), state["images"], strict=True))
    except (KeyError, AttributeError, TypeError, ValueError):
        raise DamagedFileError(file, "it holds no images") from None
