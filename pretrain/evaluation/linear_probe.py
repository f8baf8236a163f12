"""Linear probes: how well a linear classifier does on the features of each depth."""

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
from pretrain.runs.profiling import timed

# Inverse strengths of the L2 penalty, scikit-learn's C, from the strongest penalty to the weakest.
INVERSE_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Probe:
    """How well a linear classifier does on the features of one depth.

    Attributes
    ----------
    depth : int
        Number of layers below the features: 0 for preprocessed pixels.
    features : int
        Number of features of an image.
    C : float
        Inverse strength of the classifier's L2 penalty: the one of `INVERSE_STRENGTHS` with the best validation
        accuracy, or the strongest penalty of several that are equally good.
    val_accuracy, test_accuracy : float
        Share of the images that are classified correctly, 0 to 1.
    """

    depth: int
    features: int
    C: float
    val_accuracy: float
    test_accuracy: float


def probe_layers(network: ConvNet, data: Dataset, *, labels: int | None = None, seed: int = 0) -> list[Probe]:
    """Fit a linear classifier to the frozen features of each depth, and test it, once.

    The classifier is multinomial logistic regression on `pooled_features`, standardized.

    Parameters
    ----------
    network : ConvNet
        Not changed. Its head is not used.
    data : Dataset
        As many labels of its training images are used as the budget allows.
    labels : int, optional
        Label budget. None: all labels.
    seed : int
        Draws the label subset, the same as in `finetune_network`.

    Returns
    -------
    list of Probe
        One for each depth: 0, 1, and so on to the number of layers.

    Raises
    ------
    UserError
        When there are fewer labels than the budget, or no validation images.

    References
    ----------
    Alain and Bengio (2016), Understanding intermediate layers using linear classifier probes, arXiv:1610.01644.
    """
    if not len(data.validation):
        raise UserError(
            "a probe's penalty is chosen on validation images, and there are none: give a greater data.validation."
        )
    train = data.train.subset(label_subset(data.train.labels, labels, seed))
    with timed("forward"):
        splits = [pooled_features(network, split.images) for split in (train, data.validation)]
    with timed("preparation"):
        chosen = [
            _fit_probe(x, train.labels, held_out, data.validation.labels) for x, held_out in zip(*splits, strict=True)
        ]
    with timed("decoding"):
        test = data.open_test()
    with timed("forward"):
        tested = zip(chosen, pooled_features(network, test.images), strict=True)
    return [
        Probe(depth, x.shape[1], C, val_accuracy, float(classifier.score(x, test.labels)))
        for depth, ((classifier, C, val_accuracy), x) in enumerate(tested)
    ]


def _fit_probe(x: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> tuple[Pipeline, float, float]:
    """Return the classifier with the best accuracy on held-out features, its C, and that accuracy."""
    fitted = []
    # scikit-learn would take as many threads as the machine has.
    with threadpool_limits(torch.get_num_threads()):
        for C in INVERSE_STRENGTHS:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(x, labels)
            fitted.append((classifier, C, float(classifier.score(held_out, held_out_labels))))
    return max(fitted, key=lambda fit: fit[2])
