"""Fitting a head to the outputs of the layers by regression, instead of training it step by step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from pretrain.data.dataset import Labelled
from pretrain.errors import UserError
from pretrain.evaluation.layer_features import top_features
from pretrain.evaluation.linear_probe import INVERSE_STRENGTHS
from pretrain.network.convnet import ConvNet

# Factors of the sum of squared weights in ridge regression, from the strongest penalty to the weakest.
RIDGE_PENALTIES = tuple(10 ** (k / 2) for k in range(12, 1, -1))
DOUBLE_PRECISION_BATCH = 4096  # images whose features are in double precision at a time

Linear = tuple[np.ndarray, np.ndarray]  # weights, (classes, features), and biases, (classes,)


@dataclass(frozen=True)
class FittedHead:
    """How a head was fitted.

    Attributes
    ----------
    penalties : dict of float to float
        Validation accuracy, 0 to 1, of each penalty tried: that of ridge regression, or 1/C of logistic regression.
    penalty : float
        The penalty with the best accuracy, or the strongest of several that are equally good.
    """

    penalties: dict[float, float]
    penalty: float


@torch.no_grad()
def fit_head(network: ConvNet, train: Labelled, validation: Labelled, how: str, flip: bool) -> FittedHead:
    """Fit the head to the outputs of the layers, standardized, and choose its penalty on validation images.

    Parameters
    ----------
    network : ConvNet
        Its head is changed in place.
    train, validation : Labelled
        Images to fit the head to, and images to choose the penalty on.
    how : {"ridge", "logistic"}
        "ridge": least squares on indicators of the classes with an L2 penalty (Hoerl and Kennard 1970). The logits are
        then scaled to the least cross-entropy on the validation images (temperature scaling, Guo et al. 2017, with the
        prior of Platt 1999). "logistic": multinomial logistic regression with an L2 penalty.
    flip : bool
        Fit the head to the mirror images as well.

    Returns
    -------
    FittedHead
        The penalties tried, and the one chosen.

    Raises
    ------
    UserError
        When there are no validation images.

    References
    ----------
    Hoerl and Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems. Technometrics 12.
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks. ICML, section 4.2.
    Platt (1999), Probabilistic outputs for support vector machines. Advances in Large Margin Classifiers, section 2.2.
    """
    if not len(validation):
        raise UserError(
            f"recipe.head={how} needs validation images, and there are none: give a greater data.validation."
        )
    images = torch.cat([train.images[:], train.images[:].flip(3)]) if flip else train.images
    labels, held_out = train.labels.repeat(1 + flip).numpy(), top_features(network, validation.images)
    scaler, fc = StandardScaler(copy=False), network.head.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    fits, logits = {}, {}
    # scikit-learn would take as many threads as the machine has.
    with threadpool_limits(torch.get_num_threads()):
        x = scaler.fit_transform(top_features(network, images).numpy())
        for penalty, (weights, biases) in _linear_fits(how, x, labels, len(network.classes), _double_device(fc)):
            weights = weights / scaler.scale_
            fits[penalty] = weights, biases - weights @ scaler.mean_
            _load(fc, *fits[penalty])
            # The head itself computes them, so that they are rounded as they will be later.
            logits[penalty] = fc(held_out.to(fc.weight.device)).float().cpu().numpy()
    truth = validation.labels.numpy()
    accuracies = {penalty: float((each.argmax(axis=1) == truth).mean()) for penalty, each in logits.items()}
    best = max(accuracies, key=lambda penalty: accuracies[penalty])
    factor = _calibration(logits[best], truth) if how == "ridge" else 1.0
    _load(fc, *(factor * part for part in fits[best]))
    return FittedHead(accuracies, best)


def _load(fc: nn.Linear, weights: np.ndarray, biases: np.ndarray) -> None:
    fc.weight.copy_(torch.from_numpy(weights))
    fc.bias.copy_(torch.from_numpy(biases))
    # Autocast would go on with its copy of the old weights.
    torch.clear_autocast_cache()


def _double_device(fc: nn.Linear) -> torch.device:
    """Return a device that has double precision: the head's if it is a CUDA device, else the CPU."""
    device = fc.weight.device
    return device if device.type == "cuda" else torch.device("cpu")


def _linear_fits(
    how: str, x: np.ndarray, labels: np.ndarray, classes: int, device: torch.device
) -> Iterator[tuple[float, Linear]]:
    """Fit linear classifiers to features, (N, D), from the strongest penalty to the weakest."""
    if how == "ridge":
        targets = torch.eye(classes, dtype=torch.float64, device=device)[labels]
        biases = targets.mean(dim=0)
        for penalty, weights in _ridge(torch.from_numpy(x), targets - biases):
            yield penalty, (weights.cpu().numpy(), biases.cpu().numpy())
        return
    for C in INVERSE_STRENGTHS:
        logistic = LogisticRegression(C=C, max_iter=1000).fit(x, labels)
        coef, intercept = logistic.coef_, logistic.intercept_
        # With two classes there is one row: the second class against the first.
        if classes == 2:
            coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        yield 1 / C, (coef, intercept)


def _ridge(x: Tensor, targets: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Yield each penalty with the weights, (classes, D), that minimize ``||targets - x w||^2 + penalty ||w||^2``.

    `x`, (N, D), and `targets`, (N, classes), have zero mean. One eigendecomposition serves all penalties: that of x'x
    or of xx', whichever is smaller, since both have the same nonzero eigenvalues. (scikit-learn searches over penalties
    in this way only with cross-validation, and copies `x`.) The eigenvalues may span more orders of magnitude than
    single precision resolves. Everything is therefore computed in the precision of `targets`, which should be double,
    and on their device.
    """
    wide = x.shape[0] < x.shape[1]
    if wide:
        # Converted once here, and not for each penalty below.
        x = x.to(targets)
        gram, right = x @ x.T, targets
    else:
        gram, right = _products(x, targets)
    values, vectors = torch.linalg.eigh(gram)
    rotated = vectors.T @ right
    for penalty in RIDGE_PENALTIES:
        solved = vectors @ (rotated / (values + penalty)[:, None])
        yield penalty, (x.T @ solved if wide else solved).T


def _products(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return x'x, (D, D), and x'targets, (D, classes); only a batch of x is converted at a time, to save memory."""
    squares, moments = (targets.new_zeros(x.shape[1], columns) for columns in (x.shape[1], targets.shape[1]))
    batches = zip(x.split(DOUBLE_PRECISION_BATCH), targets.split(DOUBLE_PRECISION_BATCH), strict=True)
    for part, wanted in batches:
        part = part.to(targets)
        squares.addmm_(part.T, part)
        moments.addmm_(part.T, wanted)
    return squares, moments


def _calibration(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor of the logits, (N, classes), with the least cross-entropy.

    Platt's prior adds one label of each class, spread evenly over the images. Without it, the factor would be infinite
    when every image is classified correctly.
    """
    count, classes = logits.shape
    prior = classes / (count + classes)

    def loss(log_factor: float) -> float:
        logp = log_softmax(np.exp(log_factor) * logits, axis=1)
        return -float((1 - prior) * logp[np.arange(count), labels].mean() + prior * logp.mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 15), method="bounded").x))
