"""One layer of the ConvNet: convolution, activation, pooling, and a common scale."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.errors import UserError, choose, require_between
from pretrain.network.activations import ACTIVATIONS, Triangle
from pretrain.network.channel_moments import channel_moments
from pretrain.network.probabilistic_pooling import ProbabilisticMaxPool

Bounds = tuple[Tensor, Tensor]

POOLINGS = ("max", "average", "probabilistic")
# What is done to the output of a layer that has learned: unit variance of all maps together; zero mean and unit
# variance of each map; nothing.
NORMALIZATIONS = ("scale", "standardize", "none")
CHUNK = 100  # inputs at a time, of those that a layer is normalized on
NOTHING = torch.finfo(torch.float32).tiny  # added to variances, and changes none: torch 2.11 wants more than zero
LEAST_SPREAD = 0.1  # of the greatest: a map that hardly moves is not blown up


class Layer(nn.Module):
    """One layer of the ConvNet: convolution, activation, pooling, and what brings its output to a common scale.

    Parameters
    ----------
    in_channels, out_channels : int
        Maps in and out.
    kernel_size : int
        Side of the filters in pixels.
    stride : int
        Step of the convolution in pixels.
    padding : int, optional
        Zeros added on each side; by default as many as keep the size at stride 1, ``kernel_size // 2``.
    activation : str
        One of `ACTIVATIONS`; "zero_bias_relu" is a ReLU after a convolution without bias.
    pool : int
        Stride of the pooling, and side of its window unless `window` says otherwise; 1 for none.
    window : int, optional
        Side of the pooling window; wider than `pool` by an even number of pixels, half of them on each side, so that
        windows overlap and the output is as large as without.
    pooling : {"max", "average", "probabilistic"}
        The greatest activation of a window, or their mean; or, of sigmoid units of which one at most is on, the
        probability that any is (Lee et al. 2009).
    power : float
        Of the activation "triangle".

    Notes
    -----
    The output is ``(pooled - shift) * scale``, one of each a map. They are set once the layer has learned, for what is
    built on top, and never learned; the scale goes into the convolution, where it can, when the network is assembled.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        activation: str = "relu",
        pool: int = 1,
        window: int | None = None,
        pooling: str = "max",
        power: float = 1.0,
    ):
        super().__init__()
        choose("activation", activation, ACTIVATIONS)
        choose("pooling", pooling, POOLINGS)
        if pooling == "probabilistic" and activation != "sigmoid":
            raise UserError(f"pooling=probabilistic is of sigmoid units, not of activation={activation}.")
        for name, value in {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "pool": pool,
        }.items():
            require_between(name, value, 1)
        window = pool if window is None else window
        if window < pool or (window - pool) % 2:
            raise UserError(f"window={window} with pool={pool}: it must be pool, or wider by 2, 4, ...")
        if window > pool and pooling == "probabilistic":
            raise UserError(f"window={window}: windows of pooling=probabilistic do not overlap; give {pool}, as pool.")
        self.padding = padding = kernel_size // 2 if padding is None else padding
        require_between("padding", padding, 0)
        require_between("power", power, 0.1)
        if power != 1 and activation != "triangle":
            raise UserError(f"power={power} is of activation=triangle, not of activation={activation}.")
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "activation": activation,
            "pool": pool,
            "window": window,
            "pooling": pooling,
            "power": power,
        }
        bias = activation != "zero_bias_relu"
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.activation: nn.Module = ACTIVATIONS[activation](power)
        border = (window - pool) // 2
        self.pool: nn.Module = nn.Identity()
        if pooling == "average" and window > 1:  # zeros outside the image are no part of a mean
            self.pool = nn.AvgPool2d(window, pool, border, count_include_pad=False)
        elif window > 1:
            self.pool = nn.MaxPool2d(window, pool, border)
        if pooling == "probabilistic":  # which starts from the inputs of the units
            self.activation, self.pool = nn.Identity(), ProbabilisticMaxPool(pool)
        self.register_buffer("shift", torch.zeros(out_channels))
        self.register_buffer("scale", torch.ones(out_channels))

    @property
    def pool_size(self) -> int:
        """Stride of the pooling, 1 where there is none."""
        return self.settings["pool"]

    def hidden(self, x: Tensor) -> Tensor:
        """Return the activations before pooling, without the scale: (N, C, H, W) -> (N, C', H', W')."""
        return self.activation(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output: (N, C, H, W) -> (N, C', H'', W'')."""
        return self.normalized(self.pool(self.hidden(x)))

    def normalized(self, pooled: Tensor) -> Tensor:
        """Return ``(pooled - shift) * scale``, of the same shape (N, C', H'', W'')."""
        # In one pass, and in the type of `pooled`.
        return F.batch_norm(pooled, self.shift, self.scale.pow(-2), eps=NOTHING)

    def pooled(self, y: Tensor) -> Tensor:
        """Undo `normalized`: return what the pool had put out, of the same shape (N, C', H'', W'')."""
        return y / self.scale[:, None, None] + self.shift[:, None, None]

    def spread(self, pooled: Tensor) -> Tensor:
        """Give every place under a pooled value, (N, C, H, W), that value: (N, C, H pool, W pool)."""
        return F.interpolate(pooled, scale_factor=self.pool_size) if self.pool_size > 1 else pooled

    @property
    def bounds(self) -> Bounds:
        """The least and the greatest value that each map can take, (C',) twice; infinite where there is none."""
        low, high = {"sigmoid": (0.0, 1.0), "scaled_tanh": (-1.7159, 1.7159)}.get(
            self.settings["activation"], (0.0, math.inf)
        )
        return (low - self.shift) * self.scale, (high - self.shift) * self.scale

    @torch.no_grad()
    def normalize(self, inputs: Tensor, how: str) -> None:
        """Set shift and scale on inputs, (N, C, H, W), of which a few hundred are enough; `how` is of `NORMALIZATIONS`.

        Raises
        ------
        UserError
            When the output is the same everywhere: the layer is dead.
        """
        self.shift.zero_()
        self.scale.fill_(1.0)
        if how == "none":
            return
        mean, variance = channel_moments(self(chunk) for chunk in inputs.split(CHUNK))
        overall = (variance.mean() + mean.var(correction=0)).sqrt()
        if not overall > 1e-12:
            raise UserError("a layer's output is constant on the unlabelled images: lower its learning rate.")
        if how == "scale":
            self.scale.fill_(float(1 / overall))
        else:
            std = variance.sqrt()
            self.shift.copy_(mean)
            self.scale.copy_(1 / std.clamp(min=LEAST_SPREAD * float(std.max())))

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Move the scale into the convolution, where the activation is positively homogeneous.

        The function computed stays the same. Left outside, a factor s on the output would multiply the
        learning rate of the weights, relative to their size, by s squared. Of maps that compete, only a factor that all
        have in common can be moved: the geometric mean of their scales.
        """
        if not isinstance(self.activation, nn.ReLU | Triangle):
            return
        competing = isinstance(self.activation, Triangle)
        moved = self.scale.log().mean().exp().expand_as(self.scale) if competing else self.scale.clone()
        factor = moved.pow(1 / self.settings["power"])
        self.conv.weight.mul_(factor[:, None, None, None])
        if self.conv.bias is not None:
            self.conv.bias.mul_(factor)
        self.shift.mul_(moved)
        self.scale.div_(moved)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize as a network trained from scratch is: He et al. (2015) for ReLU, else Glorot and Bengio (2010).

        Sigmoids get four times the weights of a tanh, whose slope at zero is four times theirs; those of which one at
        most in a window is on, a bias by which the window is as likely on as off.
        """
        activation = self.settings["activation"]
        if activation in ("relu", "zero_bias_relu", "triangle"):
            nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(self.conv.weight, gain=4.0 if activation == "sigmoid" else 1.0)
        if self.conv.bias is not None:
            probabilistic = self.settings["pooling"] == "probabilistic"
            nn.init.constant_(self.conv.bias, -2 * math.log(self.pool_size) if probabilistic else 0.0)
        self.shift.zero_()
        self.scale.fill_(1.0)
