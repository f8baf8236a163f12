"""The three products of a convolutional RBM, which are matrix products where a filter has one position.

A filter as large as the image has one. A matrix product then takes half of the time of a convolution, and a hundredth
of that of a transposed one. With the channels last in memory, the matrices are views.
"""

import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from pretrain.network.transposed_convolution import conv_transpose


def towards_hidden(v: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return W * v: (N, C, H, W), (K, C, F, F) -> (N, K, H', W')."""
    if v.shape[2:] == weight.shape[2:] and not padding:
        return (_rows(v) @ _rows(weight).T)[:, :, None, None]
    return F.conv2d(v, weight, padding=padding)


def towards_visible(h: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return W~ * h, the transpose of the convolution: (N, K, H', W'), (K, C, F, F) -> (N, C, H, W)."""
    if h.shape[2:] == (1, 1) and not padding:
        return _from_rows(h.flatten(1) @ _rows(weight), weight.shape[1:])
    return conv_transpose(h, weight, padding)


def weight_product(v: Tensor, h: Tensor, shape: tuple[int, ...], padding: int) -> Tensor:
    """Return the sum over images and positions of h times the patch of v below it, in the shape of W, (K, C, F, F)."""
    if h.shape[2:] == (1, 1) and not padding:
        return _from_rows(h.flatten(1).T @ _rows(v), shape[1:])
    return conv2d_weight(v, shape, h, padding=padding)


def _rows(x: Tensor) -> Tensor:
    """Return images or filters, (N, C, H, W), as the rows of a matrix, (N, H * W * C)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def _from_rows(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return rows, (N, H * W * C), as images or filters, (N, C, H, W); `shape` is (C, H, W)."""
    channels, height, width = shape
    return rows.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
