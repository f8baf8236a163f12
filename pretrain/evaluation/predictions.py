"""Predictions for labelled images, the accuracy that they have in all and in each class, and the confusion matrix."""

from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix
from torch import Tensor

from pretrain.data.dataset import Labelled
from pretrain.network.convnet import ConvNet


@dataclass(frozen=True)
class Evaluation:
    """How well a network classifies labelled images.

    Attributes
    ----------
    accuracy : float
        Share of the images that are classified correctly, 0 to 1.
    per_class : dict of str to float
        The same for the images of each class (its recall); NaN for a class without images.
    confusion : ndarray, (classes, classes), int
        Number of images of the class of the row that are classified as the class of the column.
    labels : Tensor, (N,), int64
        Class of each image.
    probabilities : Tensor, (N, classes)
        Probability that the network gives to each class of each image. The greatest is that of the predicted class.
    """

    accuracy: float
    per_class: dict[str, float]
    confusion: np.ndarray
    labels: Tensor = field(repr=False)
    probabilities: Tensor = field(repr=False)


def evaluate(network: ConvNet, data: Labelled) -> Evaluation:
    """Classify labelled images in eval mode, and count the hits and the confusions."""
    probabilities = network.predict_proba(data.images)
    predicted = probabilities.argmax(dim=1).numpy()
    labels = data.labels.numpy()
    confusion = confusion_matrix(labels, predicted, labels=range(len(network.classes)))
    with np.errstate(invalid="ignore"):
        recall = confusion.diagonal() / confusion.sum(axis=1)
    per_class = dict(zip(network.classes, recall.tolist(), strict=True))
    return Evaluation(float(accuracy_score(labels, predicted)), per_class, confusion, data.labels, probabilities)
