"""The mean squared error of a reconstruction, in few passes over the memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def squared_error(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Return the mean of ``(reconstruction - x)^2``, a scalar of the type of `x`; both have the same shape.

    It is differentiated once, with respect to the reconstruction, which may have fewer bits than `x`. The gradient has
    these as well.
    """
    return _SquaredError.apply(reconstruction, x)


class _SquaredError(torch.autograd.Function):
    """Torch's own loss would convert the reconstruction, and its gradient back, in passes of their own."""

    @staticmethod
    def forward(ctx: Any, reconstruction: Tensor, x: Tensor) -> Tensor:
        deviation = reconstruction - x
        ctx.save_for_backward(deviation.to(reconstruction.dtype))
        return torch.linalg.vector_norm(deviation).square() / deviation.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (deviation,) = ctx.saved_tensors
        return deviation * (2 * gradient / deviation.numel()), None
