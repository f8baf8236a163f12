"""Fitting a head to what its frozen layers make of the labelled images, instead of training it step by step."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from pretrain.data import Labelled
from pretrain.errors import UserError
from pretrain.evaluation import INVERSE_STRENGTHS
from pretrain.network import ConvNet

HEADS = ("random", "ridge", "logistic")
PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)  # of ridge regression: times the sum of the squared weights

Linear = tuple[np.ndarray, np.ndarray]  # weights, (classes, features), and biases, (classes,)


@torch.no_grad()
def fit_head(network: ConvNet, train: Labelled, validation: Labelled, how: str, flip: bool) -> None:
    """Fit the head to the outputs of the layers, standardised, and choose its penalty on validation images.

    Parameters
    ----------
    network : ConvNet
        Its head is changed in place.
    train, validation : Labelled
        Images that it learns from, and those that choose.
    how : {"ridge", "logistic"}
        Least squares on the classes' indicators (Hoerl and Kennard 1970), then scaled so that the cross-entropy of the
        validation images is least (Guo et al. 2017); or multinomial logistic regression. Both with an L2 penalty.
    flip : bool
        Learn from the images and their mirror images.

    Raises
    ------
    UserError
        When there are no validation images.

    References
    ----------
    Hoerl and Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems. Technometrics 12.
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks. ICML, section 4.2.
    """
    if not len(validation):
        raise UserError(f"finetuning.head={how} needs validation images: give data.validation more than 0.")
    images = torch.cat([train.images, train.images.flip(3)]) if flip else train.images
    labels, held_out_labels = train.labels.repeat(1 + flip).numpy(), validation.labels.numpy()
    scaler = StandardScaler()
    x = scaler.fit_transform(_features(network, images))
    held_out = scaler.transform(_features(network, validation.images))
    fits = _ridge(x, labels, len(network.classes)) if how == "ridge" else _logistic(x, labels, len(network.classes))

    def accuracy(fit: Linear) -> float:
        return float(((held_out @ fit[0].T + fit[1]).argmax(axis=1) == held_out_labels).mean())

    weights, biases = max(fits, key=accuracy)
    if how == "ridge":
        factor = _calibration(held_out @ weights.T + biases, held_out_labels)
        weights, biases = factor * weights, factor * biases
    weights = weights / scaler.scale_
    fc = network.head.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    fc.weight.copy_(torch.from_numpy(weights))
    fc.bias.copy_(torch.from_numpy(biases - weights @ scaler.mean_))


def _features(network: ConvNet, images: Tensor, batch_size: int = 500) -> np.ndarray:
    """Return what the head sees of images, (N, C, H, W): (N, features), float32."""
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    flatten = network.head.get_submodule("flatten")
    batches = []
    for batch in images.split(batch_size):
        x = network.preprocessing(batch.to(device).contiguous(memory_format=torch.channels_last))
        batches.append(flatten(network.layers(x)).float().cpu())
    network.train(was_training)
    return torch.cat(batches).numpy()


def _ridge(x: np.ndarray, labels: np.ndarray, classes: int) -> Iterator[Linear]:
    for alpha in PENALTIES:
        fit = Ridge(alpha=alpha).fit(x, np.eye(classes, dtype=x.dtype)[labels])
        yield fit.coef_, fit.intercept_


def _logistic(x: np.ndarray, labels: np.ndarray, classes: int) -> Iterator[Linear]:
    for C in INVERSE_STRENGTHS:
        fit = LogisticRegression(C=C, max_iter=1000).fit(x, labels)
        if classes == 2:  # one row, of the second class against the first
            yield np.concatenate([-fit.coef_, fit.coef_]) / 2, np.concatenate([-fit.intercept_, fit.intercept_]) / 2
        else:
            yield fit.coef_, fit.intercept_


def _calibration(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor of the logits, (N, classes), that makes the cross-entropy least."""

    def loss(log_factor: float) -> float:
        return float(-log_softmax(np.exp(log_factor) * logits, axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 6), method="bounded").x))
