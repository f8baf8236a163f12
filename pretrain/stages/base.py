"""What every kind of stage shares: the layer that the ConvNet keeps, and the contract for training it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.data.views import Views
from pretrain.energy import pooled_probability
from pretrain.errors import UserError, choose, require_between
from pretrain.functional import scaled_tanh, triangle

Metrics = Mapping[str, float]
Bounds = tuple[Tensor, Tensor]


class ScaledTanh(nn.Module):
    """The activation 1.7159 tanh(2x / 3); see `pretrain.functional.scaled_tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of `x`, of the same shape."""
        return scaled_tanh(x)


class Triangle(nn.Module):
    """The activation max(0, x - mean of x over maps)^power; see `pretrain.functional.triangle`."""

    def __init__(self, power: float):
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of `x`, of the same shape (N, C, H, W)."""
        return triangle(x, self.power)


class ProbabilisticMaxPool(nn.MaxPool2d):
    """The probability that any unit of a window is on, given the units' inputs; see `energy.pooled_probability`."""

    of = "probabilistic max"  # in the table of layers

    def forward(self, x: Tensor) -> Tensor:
        """Return probabilities, (N, K, H/size, W/size), of inputs (N, K, H, W)."""
        return pooled_probability(x, self.kernel_size)  # type: ignore[arg-type]  # a layer's window is one number


ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {  # of the layer's power
    "relu": lambda _: nn.ReLU(),
    "zero_bias_relu": lambda _: nn.ReLU(),  # the convolution has no bias
    "triangle": Triangle,
    "scaled_tanh": lambda _: ScaledTanh(),
    "sigmoid": lambda _: nn.Sigmoid(),
}
POOLINGS = ("max", "average", "probabilistic")
# What is done to a layer's output for what is built on it, once it has learnt: unit variance of all maps together; zero
# mean and unit variance of each map; nothing.
NORMALISATIONS = ("scale", "standardise", "none")
LEAST_SPREAD = 0.1  # of the greatest: a map that hardly moves is not blown up


def require_unit_range(setting: str, inputs: Tensor, advice: str) -> None:
    """Raise a `UserError` with `advice`, unless the inputs of a stage lie from 0 to 1 as its `setting` needs."""
    low, high = float(inputs.amin()), float(inputs.amax())
    if low < 0 or high > 1:
        raise UserError(f"{setting} needs inputs from 0 to 1, but they go from {low:.3g} to {high:.3g}: use {advice}.")


DEAD = 0.01  # of what a unit of the map does at most on the images: it answers to none of them


def activity(h: Tensor) -> Metrics:
    """Return how much a layer's units, (N, K, H, W), do: their mean, and the shares of dead and of saturated maps.

    A map is dead when none of its units exceeds `DEAD` of the greatest activation of the layer, and saturated when none
    falls below 1 - `DEAD` of it.
    """
    greatest = h.amax().clamp(min=1e-12)
    return {
        "hidden_mean": float(h.mean()),
        "dead": float((h.amax(dim=(0, 2, 3)) < DEAD * greatest).float().mean()),
        "saturated": float((h.amin(dim=(0, 2, 3)) > (1 - DEAD) * greatest).float().mean()),
    }


class Layer(nn.Module):
    """One layer of the ConvNet: convolution, activation, max-pooling, and what brings its output to a common scale.

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
        Side and stride of the max-pooling window; 1 for none.
    pooling : {"max", "average", "probabilistic"}
        The greatest activation of a window, or their mean; or, of sigmoid units of which one at most is on, the
        probability that any is (Lee et al. 2009).
    power : float
        Of the activation "triangle".

    Notes
    -----
    The output is ``(pooled - shift) * scale``, one of each a map. They are set once the layer has learnt, for what is
    built on top, and never learnt; the scale goes into the convolution, where it can, when the network is assembled.
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
        self.padding = padding = kernel_size // 2 if padding is None else padding
        require_between("padding", padding, 0)
        require_between("power", power, 0.1)
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "activation": activation,
            "pool": pool,
            "pooling": pooling,
            "power": power,
        }
        bias = activation != "zero_bias_relu"
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.activation: nn.Module = ACTIVATIONS[activation](power)
        kind = nn.AvgPool2d if pooling == "average" else nn.MaxPool2d
        self.pool: nn.Module = kind(pool) if pool > 1 else nn.Identity()
        if pooling == "probabilistic":  # which starts from the inputs of the units
            self.activation, self.pool = nn.Identity(), ProbabilisticMaxPool(pool)
        self.register_buffer("shift", torch.zeros(out_channels))
        self.register_buffer("scale", torch.ones(out_channels))

    @property
    def pool_size(self) -> int:
        """Side of the pooling window, 1 where there is none."""
        return self.settings["pool"]

    def hidden(self, x: Tensor) -> Tensor:
        """Return the activations before pooling, without the scale: (N, C, H, W) -> (N, C', H', W')."""
        return self.activation(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output: (N, C, H, W) -> (N, C', H'', W'')."""
        return self.normalised(self.pool(self.hidden(x)))

    def normalised(self, pooled: Tensor) -> Tensor:
        """Return ``(pooled - shift) * scale``, of the same shape (N, C', H'', W'')."""
        return F.batch_norm(pooled, self.shift, self.scale.pow(-2), eps=0.0)  # in one pass, and in the type of `pooled`

    def pooled(self, y: Tensor) -> Tensor:
        """Undo `normalised`: return what the pool had put out, of the same shape (N, C', H'', W'')."""
        return y / self.scale[:, None, None] + self.shift[:, None, None]

    @property
    def bounds(self) -> Bounds:
        """The least and the greatest value that each map can take, (C',) twice; infinite where there is none."""
        low, high = {"sigmoid": (0.0, 1.0), "scaled_tanh": (-1.7159, 1.7159)}.get(
            self.settings["activation"], (0.0, math.inf)
        )
        return (low - self.shift) * self.scale, (high - self.shift) * self.scale

    @torch.no_grad()
    def normalise(self, inputs: Tensor, how: str) -> None:
        """Set shift and scale on inputs, (N, C, H, W), of which a few hundred are enough; `how` is of `NORMALISATIONS`.

        Raises
        ------
        UserError
            When the output is the same everywhere: the layer is dead.
        """
        self.shift.zero_()
        self.scale.fill_(1.0)
        if how == "none":
            return
        output = self(inputs).float()
        if not output.std() > 1e-12:
            raise UserError("a layer's output is constant on the unlabelled images: lower its learning rate.")
        if how == "scale":
            self.scale.fill_(1 / output.std())
        else:
            std = output.std(dim=(0, 2, 3), correction=0)
            self.shift.copy_(output.mean(dim=(0, 2, 3)))
            self.scale.copy_(1 / std.clamp(min=LEAST_SPREAD * float(std.max())))

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Move the scale into the convolution, where the activation is positively homogeneous and nothing is shifted.

        The function computed stays the same. Left outside, a factor s on the output would multiply the
        learning rate of the weights, relative to their size, by s squared.
        """
        if not isinstance(self.activation, nn.ReLU | Triangle) or self.shift.any():
            return
        if isinstance(self.activation, Triangle) and (self.scale != self.scale[0]).any():
            return  # maps compete: a factor on one would change the others
        factor = self.scale.pow(1 / self.settings["power"])
        self.conv.weight.mul_(factor[:, None, None, None])
        if self.conv.bias is not None:
            self.conv.bias.mul_(factor)
        self.scale.fill_(1.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as a network trained from scratch is: He et al. (2015) for ReLU, else Glorot and Bengio (2010).

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


def not_finite(metrics: Metrics, learning_rate: float) -> str | None:
    """Say so when a metric is not a finite number any more, and which setting it is likely to be; else return None."""
    if all(math.isfinite(value) for value in metrics.values()):
        return None
    return f"not a finite number any more: lower learning_rate={learning_rate:g}"


class Stage(nn.Module, ABC):
    """One layer of the network with the machinery that trains it; the machinery is thrown away at the end.

    A subclass sets `layer` in its constructor, which takes `in_channels` and the keywords of its YAML.
    Whatever else it learns or remembers is a parameter or a buffer outside `layer`, so that a resumed run
    goes on exactly.

    Attributes
    ----------
    layer : Layer
        All that the ConvNet keeps: (N, C, H, W) -> (N, C', H', W'), deterministic.
    out_channels : int
        C'.
    monitor : str
        The metric that should fall while the stage trains.
    objective : str or None
        The metric whose gradient `accumulate_grad` writes in eval mode, where nothing is random; None where what it
        writes is a rule's update, and the gradient of nothing.
    views : Views or None
        How random views of the images are made. Then `accumulate_grad` gets two of each image, the first of all and
        then the second of all.
    """

    layer: Layer
    out_channels: int
    monitor: str = "loss"
    objective: str | None = "loss"
    views: Views | None = None

    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Look at a sample of the inputs, (N, C, H, W), once before training; does nothing unless overridden.

        `bounds` are the least and the greatest value that each channel can take, (C,) twice.
        """

    @abstractmethod
    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Write the gradient of this stage's own parameters for one batch, and return scalar metrics.

        Parameters
        ----------
        x : Tensor, (N, C, H, W)
            What the layers below make of a batch of images. Not changed.
        generator : torch.Generator
            For every random draw of this step; on the device of `x`.
        """

    def finish(self, images: Tensor) -> None:
        """Look at a sample of the inputs, (N, C, H, W), once after training; does nothing unless overridden."""

    def constrain(self) -> None:
        """Put the parameters back where they may be, after each update; does nothing unless overridden."""

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return figures that tell how the stage is doing on inputs, (N, C, H, W), in eval mode."""
        h = self.layer.hidden(x).float()
        return {"weight_norm": float(self.layer.conv.weight.norm()), **activity(h)}

    def diagnose(self, metrics: Metrics, learning_rate: float) -> str | None:
        """Return a sentence on what is wrong, and which setting it is likely to be, when training has come to grief."""
        return not_finite(metrics, learning_rate)

    def encode(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the layer's output for `x`, and what `decode` needs besides it."""
        return self.layer(x), None

    def decode(self, y: Tensor, context: Any) -> Tensor:
        """Return a reconstruction of the input from the layer's output, where this kind of stage has one.

        Raises
        ------
        NotImplementedError
            When it has none; pictures of reconstructions are then left out.
        """
        raise NotImplementedError

    def dream(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Return inputs, (N, C, H, W), that the stage's model draws in so many steps of a chain from `x`.

        Raises
        ------
        NotImplementedError
            When it is no model of its inputs; pictures of samples are then left out.
        """
        raise NotImplementedError


class AutogradStage(Stage):
    """A stage that learns by differentiating a loss."""

    @abstractmethod
    def losses(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return scalars for one batch: "loss", which is differentiated, and others that are only shown."""

    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Differentiate "loss" and return all of `losses` as numbers."""
        losses = self.losses(x.detach(), generator)
        losses["loss"].backward()
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return all of `losses` beside what every stage tells."""
        losses = {name: float(value) for name, value in self.losses(x, generator).items()}
        return {**losses, **super().health(x, generator)}
