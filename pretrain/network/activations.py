"""Activations that torch lacks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def scaled_tanh(x: Tensor) -> Tensor:
    """Return 1.7159 tanh(2x / 3), which has unit gain near the origin for unit-variance inputs.

    References
    ----------
    LeCun, Bottou, Orr and Mueller (1998), Efficient BackProp, section 4.4.
    """
    return 1.7159 * torch.tanh(x * (2 / 3))


def triangle(x: Tensor, power: float = 1.0) -> Tensor:
    """Return max(0, x - mean of x over maps)^power for inputs (N, C, H, W).

    The maps compete at each position, and about half of them are silent. The result can be differentiated once.

    References
    ----------
    Coates, Ng and Lee (2011), An analysis of single-layer networks in unsupervised feature learning, AISTATS, who apply
    it to distances; Journe et al. (2023), Hebbian deep learning without feedback, ICLR, who add the power.
    """
    return _Triangle.apply(x, power)


class _Triangle(torch.autograd.Function):
    """The activation with a gradient written by hand.

    Powers below 1 have an infinite slope at zero, which autograd would turn into NaN. A clamp before the power, and
    autograd's own gradient of the mean, would take three times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: float) -> Tensor:
        above = (x - x.mean(dim=1, keepdim=True)).relu()
        # Autocast computes powers in float32 on a GPU.
        result = above if power == 1 else above.pow(power).to(x.dtype)
        ctx.save_for_backward(above, result)
        ctx.power = power
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        above, result = ctx.saved_tensors
        # The least denominator bounds slopes that would be infinite. Silent maps have no gradient.
        least = 1e-6 if ctx.power < 1 else torch.finfo(above.dtype).tiny
        centered = gradient * (ctx.power * result / above.clamp(min=least))
        return centered - centered.mean(dim=1, keepdim=True), None


class ScaledTanh(nn.Module):
    """The activation 1.7159 tanh(2x / 3); see `scaled_tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of `x`, of the same shape."""
        return scaled_tanh(x)


class Triangle(nn.Module):
    """The activation max(0, x - mean of x over maps)^power; see `triangle`."""

    def __init__(self, power: float):
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of `x`, of the same shape (N, C, H, W)."""
        return triangle(x, self.power)


# The keys are those of `pretrain.network.layer_settings.ACTIVATIONS`; the argument is the layer's power.
ACTIVATION_MODULES: dict[str, Callable[[float], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "zero_bias_relu": lambda _: nn.ReLU(),
    "triangle": Triangle,
    "scaled_tanh": lambda _: ScaledTanh(),
    "sigmoid": lambda _: nn.Sigmoid(),
}
