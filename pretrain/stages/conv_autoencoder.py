"""The convolutional autoencoder, as a stage."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.network.layer import Bounds, Layer
from pretrain.network.transposed_convolution import conv_transpose
from pretrain.runs.batch_parts import BatchPart, part_of
from pretrain.stages.base import AutogradStage, Metric, Stage, require_unit_range
from pretrain.stages.corruption import Corruption
from pretrain.stages.filter_initialization import initialize_filters
from pretrain.stages.kind_settings import ConvAutoencoderSettings
from pretrain.stages.sparsity import kl_penalty, l1_penalty, lifetime_winner_take_all, spatial_winner_take_all
from pretrain.stages.squared_error import squared_error
from pretrain.stages.unpooling import keep_maxima, max_pool_with_switches, unpool_with_switches


class ConvAutoencoder(AutogradStage):
    """A convolutional autoencoder: reconstruct the input from the activations of one convolutional layer.

    The code is ``h = activation(W * corrupt(x) + b)``, pooled and unpooled by its switches where asked. The
    reconstruction is ``W~ * h + c`` with W~ the transposed convolution (Masci et al. 2011, equation 2). W~ has the
    filters of W where tied, and its own where not.

    Parameters
    ----------
    layer : Layer
        Without biases (activation "zero_bias_relu"; Memisevic, Konda and Krueger 2015; Paine et al. 2014), an
        overcomplete layer cannot become the identity by shifting its rectifiers open.
    **settings
        Those of `ConvAutoencoderSettings`.

    Raises
    ------
    UserError
        When a setting is unknown, out of its range, or contradicts another.

    References
    ----------
    Masci, Meier, Ciresan and Schmidhuber (2011), Stacked convolutional auto-encoders. ICANN.
    Memisevic, Konda and Krueger (2015), Zero-bias autoencoders and the benefits of co-adapting features. ICLR.
    Makhzani and Frey (2015), Winner-take-all autoencoders. NeurIPS.
    """

    Settings = ConvAutoencoderSettings
    description = "a convolutional autoencoder"
    metrics = (
        *AutogradStage.metrics[:1],
        Metric("reconstruction", "reconstruction error", held_out=True),
        *Stage.metrics,
    )

    def __init__(self, layer: Layer, **settings: Any):
        super().__init__(layer)
        own = ConvAutoencoderSettings(**settings)
        own.check_layer(layer.settings)
        self.filter_init, self.unpooling, self.reconstruction = own.filter_init, own.unpooling, own.reconstruction
        self.sparsity, self.sparsity_weight, self.sparsity_target = (
            own.sparsity,
            own.sparsity_weight,
            own.sparsity_target,
        )
        # Glorot's variance counts both directions: the same filters encode and, transposed, decode.
        nn.init.xavier_normal_(layer.conv.weight)
        if layer.conv.bias is not None:
            nn.init.zeros_(layer.conv.bias)
        self.corruption = Corruption(own.corruption, own.corruption_level)
        self.visible_bias = nn.Parameter(torch.zeros(layer.settings.in_channels))
        self.decoder = None if own.tied else nn.Parameter(layer.conv.weight.detach().clone())

    @property
    def randomness(self) -> list[str]:
        """The corruption of the input, where there is one."""
        noise = self.corruption
        return [] if noise.kind == "none" else [f"corruption ({noise.kind}, {noise.level:g})"]

    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Start from patches where asked, and refuse inputs that the reconstruction loss is not defined for."""
        initialize_filters(self.layer.conv, images, self.filter_init, generator)
        if self.decoder is not None:
            self.decoder.data.copy_(self.layer.conv.weight)
        if self.reconstruction == "cross_entropy":
            advice = "reconstruction=mse, or stack.preprocessing=none with stack.normalization=none and sigmoid stages"
            require_unit_range("reconstruction=cross_entropy", images, advice)

    def losses(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss, its part that is reconstruction error, and the share of some activations above zero."""
        hidden, part = self.layer.hidden(self.corruption(x, generator)), part_of(generator)
        code = self._compete(hidden, part)
        error = self._reconstruction_error(self._decode_hidden(code), x)
        return {
            "loss": error + self._penalty(hidden, part),
            "reconstruction": error,
            # Counting the activations of all images would slow training by a third.
            "active": (code[:8].detach() > 0).float().mean(),
        }

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the layer's output and the switches of its pooling, None where there are none."""
        if self.unpooling == "none" or self.layer.pool_stride == 1:
            return self.layer(x), None
        pooled, switches = max_pool_with_switches(self.layer.hidden(x), self.layer.pool_stride)
        return self.layer.normalized(pooled), switches

    def decode(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Return the reconstruction of the input from the layer's output and the switches of its pooling."""
        pooled = self.layer.pooled(y)
        if context is None:
            hidden = self.layer.spread(pooled)
        else:
            hidden = unpool_with_switches(pooled, context, self.layer.pool_stride)
        x = self._decode_hidden(hidden)
        return x.sigmoid() if self.reconstruction == "cross_entropy" else x

    def _decode_hidden(self, hidden: Tensor) -> Tensor:
        conv = self.layer.conv
        filters = conv.weight if self.decoder is None else self.decoder
        return conv_transpose(hidden, filters, self.layer.padding, self.visible_bias, conv.stride[0])

    def _compete(self, hidden: Tensor, part: BatchPart) -> Tensor:
        if self.unpooling == "switches" and self.layer.pool_stride > 1:
            hidden = keep_maxima(hidden, self.layer.pool_stride)
        if self.sparsity.endswith("winner_take_all"):
            hidden = spatial_winner_take_all(hidden)
        if self.sparsity == "lifetime_winner_take_all":
            hidden = lifetime_winner_take_all(hidden, self.sparsity_target, part)
        return hidden

    def _penalty(self, hidden: Tensor, part: BatchPart) -> Tensor:
        if self.sparsity == "l1":
            return self.sparsity_weight * l1_penalty(hidden)
        if self.sparsity == "kl":
            return self.sparsity_weight * kl_penalty(hidden, self.sparsity_target, part)
        return hidden.new_zeros(())

    def _reconstruction_error(self, decoded: Tensor, x: Tensor) -> Tensor:
        if self.reconstruction == "cross_entropy":
            return F.binary_cross_entropy_with_logits(decoded.to(x.dtype), x)
        return squared_error(decoded, x)
