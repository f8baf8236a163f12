"""Contrastive learning, by what two random views of each image have in common, as a stage."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.data.contrastive_views import Views
from pretrain.network.channel_moments import channel_moments
from pretrain.network.layer import Layer
from pretrain.runs.batch_parts import WHOLE, BatchPart, part_of
from pretrain.stages.base import AutogradStage, Metric, Metrics, Stage, activity
from pretrain.stages.batch_normalization import batch_normalized
from pretrain.stages.contrastive_losses import info_nce, vicreg
from pretrain.stages.kind_settings import ContrastiveSettings

FINISH_BATCH = 100  # inputs at a time when the statistics of the normalization are measured
EPSILON = 1e-5  # added to the variance of a map


class Contrastive(AutogradStage):
    """A layer whose output should be alike for two views of an image, by a loss of its own.

    The layer's maps are normalized over the batch before its activation (Ioffe and Szegedy 2015); at the end, the
    normalization becomes a part of the filters and biases. The layer's output is averaged over a grid of positions. A
    projection head, a small network that is thrown away afterwards, maps each position of the grid to a vector. Either
    the mean of these vectors is compared between views, or the vector at each position with that at the same position
    of the other view, which shows another part of the image. No gradient reaches the layers below (Lowe, O'Connor and
    Veeling 2019).

    Parameters
    ----------
    layer : Layer
        Its convolution has a bias: any activation but "zero_bias_relu".
    **settings
        Those of `ContrastiveSettings`.

    Raises
    ------
    UserError
        When a setting is unknown or out of its range.

    References
    ----------
    Lowe, O'Connor and Veeling (2019), Putting an end to end-to-end: gradient-isolated learning of representations,
    NeurIPS.
    Chen, Kornblith, Norouzi and Hinton (2020), A simple framework for contrastive learning of visual representations,
    ICML.
    """

    Settings = ContrastiveSettings
    description = "a contrastive layer"
    metrics = (
        *AutogradStage.metrics[:1],
        Metric("similarity", "similarity of two views", color=2, of_batches=True),
        *Stage.metrics,
    )
    least_batch = 2  # images are compared with others of their batch

    def __init__(self, layer: Layer, **settings: Any):
        super().__init__(layer)
        own = ContrastiveSettings(**settings)
        own.check_layer(layer.settings)
        self.loss, self.loss_per, self.temperature, self.grid_size = (
            own.loss,
            own.loss_per,
            own.temperature,
            own.grid_size,
        )
        self.views = Views(**vars(own.views)) if own.views else Views()
        layer.reset_parameters()
        self.head = nn.Sequential(
            nn.Conv2d(self.out_channels, own.projection_hidden, 1, bias=False),
            nn.BatchNorm2d(own.projection_hidden, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(own.projection_hidden, own.projection_size, 1),
        )

    def losses(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of inputs, (2 N, C, H, W), of two views, and how similar the views are: their mean cosine."""
        part = part_of(generator)
        y = self.layer.activated_and_pooled(self._received(x, part))
        grid = F.adaptive_avg_pool2d(y, (min(self.grid_size, y.shape[2]), min(self.grid_size, y.shape[3])))
        z = self._project(grid, part)
        if self.loss_per == "image":
            z = z.mean(dim=(2, 3), keepdim=True)
        with torch.autocast(z.device.type, enabled=False):
            first, second = z.to(torch.promote_types(z.dtype, torch.float32)).flatten(2).chunk(2)
            # Each image is compared with those of all processes.
            pairs = zip(part.gather(first).unbind(2), part.gather(second).unbind(2), strict=True)
            loss = torch.stack([self._loss(*pair) for pair in pairs]).mean()
        return {"loss": loss, "similarity": F.cosine_similarity(first.detach(), second.detach()).mean()}

    def _loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of projections, (N, D), of two views of each image."""
        return info_nce(first, second, self.temperature) if self.loss == "info_nce" else vicreg(first, second)

    def _received(self, x: Tensor, part: BatchPart = WHOLE) -> Tensor:
        """Return what the units receive of inputs, (N, C, H, W), normalized over the batch they are part of."""
        return batch_normalized(self.layer.conv(x), EPSILON, part)

    def _project(self, grid: Tensor, part: BatchPart) -> Tensor:
        """Return the vectors of the projection head, (N, D, G, G), for what the layer puts out, (N, K, G, G)."""
        first, normalization, rectifier, second = self.head
        assert isinstance(normalization, nn.BatchNorm2d)
        z = batch_normalized(first(grid), normalization.eps, part, normalization.weight, normalization.bias)
        return second(rectifier(z))

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return the figures of every stage on inputs, (N, C, H, W): there is no loss, since these are no views."""
        h = self.layer.activation(self._received(x)).float()
        return {"weight_norm": float(self.layer.conv.weight.norm()), **activity(h)}

    @torch.no_grad()
    def finish(self, images: Tensor) -> None:
        """Make the normalization a part of the filters and biases, by its statistics on a sample of the inputs."""
        conv = self.layer.conv
        assert conv.bias is not None
        mean, variance = channel_moments(conv(chunk) for chunk in images.split(FINISH_BATCH))
        factor = (variance + EPSILON).rsqrt().to(conv.weight)
        conv.weight.mul_(factor[:, None, None, None])
        conv.bias.sub_(mean.to(conv.bias)).mul_(factor)
