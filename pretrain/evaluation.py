"""How good a network is: accuracy, accuracy of each class, confusion matrix; and how good its features are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from pretrain.data import Dataset, Labelled
from pretrain.data.splits import label_subset
from pretrain.errors import UserError
from pretrain.network import ConvNet

GRID = 4  # positions along a side that a probe sees
INVERSE_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of a probe's L2 penalty, scikit-learn's C


@dataclass(frozen=True)
class Evaluation:
    """What a network makes of labelled images.

    Attributes
    ----------
    accuracy : float
        Share of the images classified correctly, 0 to 1.
    per_class : dict of str to float
        The same for the images of each class (its recall); NaN for a class without images.
    confusion : ndarray, (classes, classes), int
        Images of the class of the row, taken for the class of the column.
    """

    accuracy: float
    per_class: dict[str, float]
    confusion: np.ndarray


def evaluate(network: ConvNet, data: Labelled) -> Evaluation:
    """Classify `data` with dropout off, and count."""
    predicted = network.predict_proba(data.images).argmax(dim=1).numpy()
    labels = data.labels.numpy()
    confusion = confusion_matrix(labels, predicted, labels=range(len(network.classes)))
    with np.errstate(invalid="ignore"):
        recall = confusion.diagonal() / confusion.sum(axis=1)
    per_class = dict(zip(network.classes, recall.tolist(), strict=True))
    return Evaluation(float(accuracy_score(labels, predicted)), per_class, confusion)


@dataclass(frozen=True)
class Probe:
    """What a linear classifier makes of the features of one depth.

    Attributes
    ----------
    depth : int
        Layers that the images have passed: 0 for preprocessed pixels.
    features : int
        Numbers that the classifier sees of an image.
    C : float
        Inverse strength of its L2 penalty, the one of `INVERSE_STRENGTHS` with the best validation accuracy; of
        equals, the strongest penalty.
    val_accuracy, test_accuracy : float
        Share of the images classified correctly, 0 to 1.
    """

    depth: int
    features: int
    C: float
    val_accuracy: float
    test_accuracy: float


def probe(network: ConvNet, data: Dataset, *, labels: int | None = None, seed: int = 0) -> list[Probe]:
    """Fit a linear classifier to the frozen features of each depth, and test it, once.

    Multinomial logistic regression on standardised features: those of `pooled_features`.

    Parameters
    ----------
    network : ConvNet
        Left as it is; its head is not used.
    data : Dataset
        Its training images are seen with their labels as far as the budget goes.
    labels : int, optional
        Label budget; None for all.
    seed : int
        Draws the label subset: the one that `finetune` draws.

    Returns
    -------
    list of Probe
        Of depth 0, 1, ..., as many as there are layers.

    Raises
    ------
    UserError
        When there are not so many labels, or no validation images.

    References
    ----------
    Alain and Bengio (2016), Understanding intermediate layers using linear classifier probes, arXiv:1610.01644.
    """
    if not len(data.validation):
        raise UserError("a probe's penalty is chosen on validation images: give data.validation more than 0.")
    train = data.train.subset(label_subset(data.train.labels, labels, seed))
    splits = [pooled_features(network, split.images) for split in (train, data.validation)]
    chosen = [
        _fit_probe(x, train.labels, held_out, data.validation.labels) for x, held_out in zip(*splits, strict=True)
    ]
    test = data.open_test()
    tested = zip(chosen, pooled_features(network, test.images), strict=True)
    return [
        Probe(depth, x.shape[1], C, val_accuracy, float(classifier.score(x, test.labels)))
        for depth, ((classifier, C, val_accuracy), x) in enumerate(tested)
    ]


@torch.no_grad()
def pooled_features(network: ConvNet, images: Tensor, batch_size: int = 500) -> list[Tensor]:
    """Return what the layers make of images, (N, C, H, W), at each depth: preprocessed pixels, after layer 1, ...

    Each (N, C' H' W'), float32 on the CPU: averaged over a grid of `GRID` x `GRID` places, or as many as there are.
    """
    batches = [[_pool(x.float()).flatten(1).cpu() for x in depths] for depths in _outputs(network, images, batch_size)]
    return [torch.cat(batch) for batch in zip(*batches, strict=True)]


@torch.no_grad()
def top_features(network: ConvNet, images: Tensor, batch_size: int = 500) -> Tensor:
    """Return what the head sees of images, (N, C, H, W): (N, features), float32 on the CPU."""
    return torch.cat([depths[-1].float().flatten(1).cpu() for depths in _outputs(network, images, batch_size)])


def _outputs(network: ConvNet, images: Tensor, batch_size: int) -> Iterator[list[Tensor]]:
    """Go through what preprocessing and each layer make of batches of images, in eval mode."""
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    for batch in images.split(batch_size):
        depths = [network.preprocessing(batch.to(device).contiguous(memory_format=torch.channels_last))]
        for layer in network.layers:
            depths.append(layer(depths[-1]))
        yield depths
    network.train(was_training)


def _pool(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return F.adaptive_avg_pool2d(x, (min(GRID, height), min(GRID, width)))


def _fit_probe(x: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> tuple[Pipeline, float, float]:
    """Return a classifier of features, its C, and its accuracy on those held out: of all C, the best there."""
    fitted = []
    with threadpool_limits(torch.get_num_threads()):  # scikit-learn's own number of threads is that of the machine
        for C in INVERSE_STRENGTHS:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(x, labels)
            fitted.append((classifier, C, float(classifier.score(held_out, held_out_labels))))
    return max(fitted, key=lambda fit: fit[2])
