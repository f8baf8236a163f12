"""The settings of one layer of the network, checked without importing torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, get_args

from pretrain.runs.setting_types import In, OnlyWith
from pretrain.runs.typed_settings import Settings

# zero_bias_relu is a ReLU after a convolution without bias.
Activation = Literal["relu", "zero_bias_relu", "triangle", "scaled_tanh", "sigmoid"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
# What is done to the output of a layer that has learned: unit variance of all maps together; zero mean and unit
# variance of each map; nothing.
Normalization = Literal["scale", "standardize", "none"]
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
Width = Annotated[int, In(ge=1, le=65536)]


class SlidingWindow(NamedTuple):
    """How a filter or a pooling window goes over its input, in torch's names and order.

    Attributes
    ----------
    kernel_size : int
        Side of the window in pixels.
    stride : int
        Step from one position to the next in pixels.
    padding : int
        Pixels added on each side of the input.
    """

    kernel_size: int
    stride: int
    padding: int


@dataclass(frozen=True)
class LayerSettings(Settings):
    """The settings of a convolution, its activation and its pooling.

    Attributes
    ----------
    in_channels, out_channels : int
        Number of maps in the input and in the output.
    kernel_size : int
        Side of the filters in pixels.
    stride : int
        Step of the convolution in pixels.
    padding : int, optional
        Zeros added on each side; None becomes ``kernel_size // 2``, which keeps the size at stride 1.
    activation : {"relu", "zero_bias_relu", "triangle", "scaled_tanh", "sigmoid"}
        The nonlinearity; "zero_bias_relu" is a ReLU after a convolution without bias.
    power : float
        The exponent of the activation "triangle", at least 0.1.
    pooling : {"max", "average", "probabilistic"}
        What a window puts out: its greatest activation; its mean; or, for sigmoid units of which at most one is on, the
        probability that any is (Lee et al. 2009).
    pool_kernel_size : int
        Side of the pooling window; 1 for no pooling.
    pool_stride : int, optional
        Step of the pooling; None becomes `pool_kernel_size`. A window is wider than its stride by an even number of
        pixels, half of them on each side, so that windows overlap and the output is as large as without.

    Raises
    ------
    UserError
        When a setting is unknown, out of its range, or contradicts another.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, for probabilistic max-pooling.
    """

    in_channels: Width
    out_channels: Width
    kernel_size: Width = 3
    stride: Width = 1
    padding: Annotated[int, In(ge=0, le=65536)] | None = None
    activation: Activation = "relu"
    power: Annotated[float, In(ge=0.1, le=100), OnlyWith("activation", "triangle")] = 1.0
    pooling: Literal["max", "average", "probabilistic"] = "max"
    pool_kernel_size: Width = 2
    pool_stride: Width | None = None

    def fill_in(self) -> None:
        """Fill in the padding and the pooling's stride, whose defaults depend on other settings."""
        if self.padding is None:
            object.__setattr__(self, "padding", self.kernel_size // 2)
        if self.pool_stride is None:
            object.__setattr__(self, "pool_stride", self.pool_kernel_size)

    def contradictions(self) -> Iterator[str]:
        """Yield a line for each misfit of the power, the pooling window, and the kind of pooling."""
        if self.power != 1 and self.activation != "triangle":
            yield f"power={self.power:g} needs activation=triangle, not activation={self.activation}."
        width, stride, _ = self.pool
        if width < stride or (width - stride) % 2:
            yield (
                f"pool_kernel_size={width} with pool_stride={stride}: a window must be as wide as its stride, or wider "
                "by 2, 4, ..."
            )
        if self.pooling == "probabilistic" and self.activation != "sigmoid":
            yield f"pooling=probabilistic needs activation=sigmoid, not activation={self.activation}."
        if self.pooling == "probabilistic" and width > stride:
            yield (
                f"pool_kernel_size={width} with pooling=probabilistic: its windows do not overlap; give {stride}, as "
                "pool_stride."
            )

    @property
    def convolution(self) -> SlidingWindow:
        """How the filters go over the input."""
        assert self.padding is not None
        return SlidingWindow(self.kernel_size, self.stride, self.padding)

    @property
    def pool(self) -> SlidingWindow:
        """How the pooling window goes over the activations; its border is not zeros, but left out."""
        assert self.pool_stride is not None
        return SlidingWindow(self.pool_kernel_size, self.pool_stride, (self.pool_kernel_size - self.pool_stride) // 2)

    @property
    def has_bias(self) -> bool:
        """Whether the convolution has a bias."""
        return self.activation != "zero_bias_relu"
