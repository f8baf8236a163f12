"""One layer of the ConvNet: convolution, activation, pooling, and a common scale."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.network.activations import ACTIVATION_MODULES, Triangle
from pretrain.network.channel_moments import channel_moments
from pretrain.network.layer_settings import LayerSettings
from pretrain.network.max_pooling import MaxPool
from pretrain.network.probabilistic_pooling import ProbabilisticMaxPool

Bounds = tuple[Tensor, Tensor]

NORMALIZATION_BATCH = 100  # inputs that a layer is normalized on at a time
# The least normal float32 is added to variances, and changes none: torch 2.11 refuses zero.
LEAST_VARIANCE = torch.finfo(torch.float32).tiny
# The standard deviation of a map counts as at least this share of the greatest, so that a map that hardly moves is not
# blown up.
LEAST_SPREAD = 0.1


class Layer(nn.Module):
    """One layer of the ConvNet: convolution, activation, pooling, and what brings its output to a common scale.

    Parameters
    ----------
    in_channels, out_channels : int
        Number of maps in the input and in the output.
    **settings
        The other settings of `LayerSettings`.

    Attributes
    ----------
    settings : LayerSettings
        All settings, with their defaults filled in.

    Raises
    ------
    UserError
        When a setting is unknown, out of its range, or contradicts another.

    Notes
    -----
    The output is ``(pooled - shift) * scale``, with one shift and one scale for each map. They are set once the layer
    has learned, for what is built on it, and never learned. The scale moves into the convolution, where it can, when
    the network is assembled.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, in_channels: int, out_channels: int, **settings: Any):
        super().__init__()
        self.settings = LayerSettings(in_channels, out_channels, **settings)
        window, bias = self.settings.convolution, self.settings.has_bias
        self.conv = nn.Conv2d(in_channels, out_channels, *window, bias=bias)
        self.activation: nn.Module = ACTIVATION_MODULES[self.settings.activation](self.settings.power)
        self.pool: nn.Module = nn.Identity()
        if self.settings.pooling == "probabilistic":
            # This pooling starts from the inputs of the units.
            self.activation, self.pool = nn.Identity(), ProbabilisticMaxPool(self.pool_stride)
        elif self.settings.pool_kernel_size > 1:
            self.pool = _pool(self.settings)
        self.register_buffer("shift", torch.zeros(out_channels))
        self.register_buffer("scale", torch.ones(out_channels))

    @property
    def padding(self) -> int:
        """Zeros that the convolution adds on each side."""
        return self.settings.convolution.padding

    @property
    def pool_stride(self) -> int:
        """Step of the pooling, 1 where there is none."""
        return self.settings.pool.stride

    def hidden(self, x: Tensor) -> Tensor:
        """Return the activations before pooling, without the scale: (N, C, H, W) -> (N, C', H', W')."""
        return self.activation(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output: (N, C, H, W) -> (N, C', H'', W'')."""
        return self.normalized(self.activated_and_pooled(self.conv(x)))

    def activated_and_pooled(self, received: Tensor) -> Tensor:
        """Return the pooled activations of units that receive this, (N, C', H', W') -> (N, C', H'', W'')."""
        if isinstance(self.pool, nn.MaxPool2d) and not isinstance(self.activation, Triangle):
            # The activation never falls, so the greatest stays the greatest, and fewer values are to be activated.
            return self.activation(self.pool(received))
        return self.pool(self.activation(received))

    def normalized(self, pooled: Tensor) -> Tensor:
        """Return ``(pooled - shift) * scale``, of the same shape (N, C', H'', W'')."""
        return _Normalized.apply(pooled, self.shift, self.scale)

    def pooled(self, y: Tensor) -> Tensor:
        """Undo `normalized`: return what the pooling had put out, of the same shape (N, C', H'', W'')."""
        return y / self.scale[:, None, None] + self.shift[:, None, None]

    def spread(self, pooled: Tensor) -> Tensor:
        """Give each position below a pooled value, (N, C, H, W), that value: (N, C, H * stride, W * stride)."""
        return F.interpolate(pooled, scale_factor=self.pool_stride) if self.pool_stride > 1 else pooled

    @property
    def bounds(self) -> Bounds:
        """The least and the greatest value that each map can take, (C',) twice; infinite where there is none."""
        low, high = {"sigmoid": (0.0, 1.0), "scaled_tanh": (-1.7159, 1.7159)}.get(
            self.settings.activation, (0.0, math.inf)
        )
        return (low - self.shift) * self.scale, (high - self.shift) * self.scale

    @torch.no_grad()
    def normalize(self, inputs: Tensor, how: str) -> None:
        """Set shift and scale by the output for inputs, (N, C, H, W).

        Parameters
        ----------
        inputs : Tensor, (N, C, H, W)
            A few hundred are enough.
        how : {"scale", "standardize", "none"}
            Unit variance of all maps together; zero mean and unit variance of each map; nothing.

        Raises
        ------
        UserError
            When the output is no finite number, or the same everywhere: the layer is dead.
        """
        self.shift.zero_()
        self.scale.fill_(1.0)
        if how == "none":
            return
        mean, variance = channel_moments(self(chunk) for chunk in inputs.split(NORMALIZATION_BATCH))
        std = variance.sqrt()
        if not std.isfinite().all():
            raise UserError("its output has values that are not finite numbers")
        # A constant map has a little variance by rounding.
        if not std.max() > 1e-12 + 1e-6 * mean.abs().max():
            raise UserError("its output is the same everywhere on the unlabelled images")
        if how == "scale":
            self.scale.fill_(float(1 / (variance.mean() + mean.var(correction=0)).sqrt()))
        else:
            self.shift.copy_(mean)
            self.scale.copy_(1 / std.clamp(min=LEAST_SPREAD * float(std.max())))

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Move the scale into the convolution, where the activation is positively homogeneous.

        The function computed stays the same. Left outside, a factor s on the output would multiply the learning rate of
        the weights, relative to their size, by s squared. Where maps compete, only a factor that all have in common can
        move: the geometric mean of their scales.
        """
        if not isinstance(self.activation, nn.ReLU | Triangle):
            return
        competing = isinstance(self.activation, Triangle)
        moved = self.scale.log().mean().exp().expand_as(self.scale) if competing else self.scale.clone()
        factor = moved.pow(1 / self.settings.power)
        self.conv.weight.mul_(factor[:, None, None, None])
        if self.conv.bias is not None:
            self.conv.bias.mul_(factor)
        self.shift.mul_(moved)
        self.scale.div_(moved)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize as a network trained from scratch is: He et al. (2015) for ReLU, else Glorot and Bengio (2010).

        Sigmoids get four times the weights of a tanh, whose slope at zero is four times theirs. Where at most one unit
        of a window is on, the bias makes the window as likely on as off.
        """
        activation = self.settings.activation
        if activation in ("relu", "zero_bias_relu", "triangle"):
            nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(self.conv.weight, gain=4.0 if activation == "sigmoid" else 1.0)
        if self.conv.bias is not None:
            probabilistic = self.settings.pooling == "probabilistic"
            nn.init.constant_(self.conv.bias, -2 * math.log(self.pool_stride) if probabilistic else 0.0)
        self.shift.zero_()
        self.scale.fill_(1.0)


class _Normalized(torch.autograd.Function):
    """The map ``(x - shift) * scale`` of values x, (N, C, H, W), with one shift and one scale for each channel, (C,).

    Batch normalization does it in one pass, and in the type of x, and the gradient likewise. Torch's own gradient of it
    takes four times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        variance = scale.pow(-2)
        ctx.save_for_backward(torch.zeros_like(shift), variance)
        return F.batch_norm(x, shift, variance, eps=LEAST_VARIANCE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        zeros, variance = ctx.saved_tensors
        return F.batch_norm(gradient, zeros, variance, eps=LEAST_VARIANCE), None, None


def _pool(settings: LayerSettings) -> nn.Module:
    if settings.pooling == "average":
        # Zeros outside the image are no part of a mean.
        return nn.AvgPool2d(*settings.pool, count_include_pad=False)
    return MaxPool(*settings.pool)
