"""The predictions of a finished run for each test image, kept in its folder and bound to the images."""

from dataclasses import dataclass

import numpy as np
import torch

from pretrain.errors import DamagedFileError
from pretrain.evaluation.predictions import Evaluation
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.tensor_files import SUFFIX, load_state, save_state

FILE = f"test-predictions{SUFFIX}"


@dataclass(frozen=True)
class KeptPredictions:
    """What a run predicted for the test images, in their order.

    Attributes
    ----------
    labels, predicted : ndarray, (N,), int
        Class of each image, and the class that the run predicted.
    probabilities : ndarray, (N, classes), float16
        Probability of each class, to three digits. Of two classes that are equal to three digits, `predicted` has the
        one that was more probable before rounding.
    images_digest : str
        Digest of the labelled images and the test images.
    """

    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    images_digest: str

    @property
    def correct(self) -> np.ndarray:
        """Whether each image was classified correctly, (N,), bool."""
        return self.predicted == self.labels


def keep_predictions(folder: RunFolder, test: Evaluation, images_digest: str) -> None:
    """Write the predictions of a run for the test images, about 2 bytes for each image and class."""
    state = {
        "images": images_digest,
        "label": test.labels.to(torch.int32),
        "predicted": test.probabilities.argmax(dim=1).to(torch.int32),
        "probability": test.probabilities.to(torch.float16),
    }
    save_state(folder.path / FILE, state)


def read_predictions(folder: RunFolder) -> KeptPredictions | None:
    """Return the predictions that a complete run kept; None where an earlier version made the run and kept none.

    Raises
    ------
    DamagedFileError
        When the file is missing, or is not what the run wrote.
    """
    if FILE not in (folder.summary() or {}).get("files", {}):
        return None
    state = load_state(file := folder.checked(FILE))
    try:
        labels, predicted, probabilities = (state[key].numpy() for key in ("label", "predicted", "probability"))
        return KeptPredictions(labels, predicted, probabilities, state["images"])
    except (KeyError, AttributeError):
        raise DamagedFileError(file, "it holds no predictions") from None
