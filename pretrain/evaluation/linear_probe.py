"""How good the features of each depth are: linear probes."""

from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from pretrain.data.dataset import Dataset
from pretrain.data.splits import label_subset
from pretrain.errors import UserError
from pretrain.evaluation.layer_features import pooled_features
from pretrain.network.convnet import ConvNet

INVERSE_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of a probe's L2 penalty, scikit-learn's C


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


def probe_layers(network: ConvNet, data: Dataset, *, labels: int | None = None, seed: int = 0) -> list[Probe]:
    """Fit a linear classifier to the frozen features of each depth, and test it, once.

    Multinomial logistic regression on standardized features: those of `pooled_features`.

    Parameters
    ----------
    network : ConvNet
        Left as it is; its head is not used.
    data : Dataset
        Its training images are seen with their labels as far as the budget goes.
    labels : int, optional
        Label budget; None for all.
    seed : int
        Draws the label subset: the one that `finetune_network` draws.

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


def _fit_probe(x: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> tuple[Pipeline, float, float]:
    """Return a classifier of features, its C, and its accuracy on those held out: of all C, the best there."""
    fitted = []
    with threadpool_limits(torch.get_num_threads()):  # scikit-learn's own number of threads is that of the machine
        for C in INVERSE_STRENGTHS:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(x, labels)
            fitted.append((classifier, C, float(classifier.score(held_out, held_out_labels))))
    return max(fitted, key=lambda fit: fit[2])
