"""The settings of one layer of the network, checked without importing torch."""

from dataclasses import dataclass
from typing import NamedTuple

from pretrain.errors import UserError, choose, require_between

# zero_bias_relu is a ReLU after a convolution without bias.
ACTIVATIONS = ("relu", "zero_bias_relu", "triangle", "scaled_tanh", "sigmoid")
POOLINGS = ("max", "average", "probabilistic")
# What is done to the output of a layer that has learned: unit variance of all maps together; zero mean and unit
# variance of each map; nothing.
NORMALIZATIONS = ("scale", "standardize", "none")


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
class LayerSettings:
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

    in_channels: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    activation: str = "relu"
    power: float = 1.0
    pooling: str = "max"
    pool_kernel_size: int = 2
    pool_stride: int | None = None

    def __post_init__(self) -> None:
        """Fill in the defaults that depend on other settings, and refuse values that cannot be meant."""
        choose("activation", self.activation, ACTIVATIONS)
        choose("pooling", self.pooling, POOLINGS)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "pool_kernel_size"):
            require_between(name, getattr(self, name), 1)
        if self.padding is None:
            object.__setattr__(self, "padding", self.kernel_size // 2)
        if self.pool_stride is None:
            object.__setattr__(self, "pool_stride", self.pool_kernel_size)
        require_between("padding", self.convolution.padding, 0)
        require_between("power", self.power, 0.1)
        if self.power != 1 and self.activation != "triangle":
            raise UserError(f"power={self.power} needs activation=triangle, not activation={self.activation}.")
        self._check_pool()

    def _check_pool(self) -> None:
        """Refuse a pooling window that does not fit its stride, or its kind of pooling."""
        width, stride, _ = self.pool
        require_between("pool_stride", stride, 1)
        if width < stride or (width - stride) % 2:
            raise UserError(
                f"pool_kernel_size={width} with pool_stride={stride}: a window must be as wide as its stride, or wider "
                "by 2, 4, ..."
            )
        if self.pooling != "probabilistic":
            return
        if self.activation != "sigmoid":
            raise UserError(f"pooling=probabilistic needs activation=sigmoid, not activation={self.activation}.")
        if width > stride:
            raise UserError(
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
