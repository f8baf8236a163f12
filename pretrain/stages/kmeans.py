"""K-means on whitened patches, as a stage."""

from typing import Any

import torch
from torch import Tensor, nn

from pretrain.network.layer import Bounds, Layer
from pretrain.runs.batch_parts import part_of
from pretrain.stages.base import Metric, Metrics, Stage
from pretrain.stages.kind_settings import KMeansSettings
from pretrain.stages.whitened_patches import WhitenedPatches

BIAS_SAMPLE = 100  # images that the biases are set on


class KMeans(Stage):
    """Spherical k-means on contrast-normalized, whitened patches of the input.

    A patch p becomes ``z = W (contrast_normalized(p) - m)`` divided by its norm, with the ZCA matrix W. It belongs to
    the centroid of unit norm that it is most similar to, ``k = argmax d_k' z`` (Dhillon and Modha 2001). A step moves
    each centroid towards the mean of the patches of a batch that belong to it, and back to unit norm. Patches,
    whitening and encoding are those of Coates and Ng (2012), whose own k-means takes the sign of d_k' z into the code.

    Since ``d_k' W (p - mean(p)) = (W d_k)' p`` for the centered W and d_k, whitening needs no layer of its own: the
    layer's filters are W d_k. The layer does not divide a patch by its contrast: strong edges answer strongly.

    Parameters
    ----------
    layer : Layer
        Its activation is "relu", a soft threshold, which is set so that each map is active at a share `activity` of
        the positions of the unlabelled images; or "triangle", the soft competition of Coates, Ng and Lee (2011), here
        between similarities. Its output channels are the centroids.
    **settings
        Those of `KMeansSettings`.

    Raises
    ------
    UserError
        When a setting is unknown or out of its range.

    References
    ----------
    Dhillon and Modha (2001), Concept decompositions for large sparse text data using clustering. Machine Learning 42.
    Coates, Ng and Lee (2011), An analysis of single-layer networks in unsupervised feature learning. AISTATS.
    Coates and Ng (2012), Learning feature representations with k-means. Neural networks: tricks of the trade.
    """

    Settings = KMeansSettings
    description = "spherical k-means on whitened patches"
    metrics = (Metric("distance", "distance of a patch to its centroid", held_out=True), *Stage.metrics)
    monitor = "distance"
    objective = None

    def __init__(self, layer: Layer, **settings: Any):
        super().__init__(layer)
        own = KMeansSettings(**settings)
        own.check_layer(layer.settings)
        self.activity, self.patches = own.activity, own.patches
        size = layer.settings.in_channels, layer.settings.kernel_size
        self.whitened = WhitenedPatches(*size, layer.padding, own.whitening)
        self.constrain()
        nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Fit the whitening to patches of a sample of the inputs, and start from some of them."""
        filters = self.whitened.fit(images, self.out_channels, generator)
        self.layer.conv.weight.copy_(filters.view_as(self.layer.conv.weight))

    @torch.no_grad()
    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Write ``W d_k - W m_k``, where m_k is the mean of the patches that belong to centroid d_k.

        "distance" is half the mean squared distance of a patch to its centroid, 1 - d' z; "empty" the share of
        centroids that none of the batch's patches belongs to, which get no update.
        """
        with torch.autocast(x.device.type, enabled=False):
            assignment = self.whitened.assign(self._filters, x, len(x) * self.patches, generator)
            change, counts = self.whitened.change(self._filters, assignment, part_of(generator))
        conv = self.layer.conv
        conv.weight.grad = change.view_as(conv.weight)
        conv.bias.grad = torch.zeros_like(conv.bias)  # type: ignore[union-attr, arg-type]
        return {"distance": float(1 - assignment.similarity.mean()), "empty": float((counts == 0).float().mean())}

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return the mean distance of a patch to its centroid beside the figures of every stage."""
        assignment = self.whitened.assign(self._filters, x, len(x) * self.patches, generator)
        return {"distance": float(1 - assignment.similarity.mean()), **super().health(x, generator)}

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the centroids back to unit norm."""
        self.layer.conv.weight.div_(self.whitened.norms(self._filters)[:, None, None, None])

    @torch.no_grad()
    def finish(self, images: Tensor) -> None:
        """Set the biases: thresholds of the wanted activity, or the means of maps that compete."""
        bias = self.layer.conv.bias
        assert bias is not None
        bias.zero_()
        u = self.layer.conv(images[:BIAS_SAMPLE]).transpose(0, 1).flatten(1)  # (K, N H W)
        if self.layer.settings.activation == "triangle":
            bias.copy_(-u.mean(dim=1))
        else:
            below = max(1, round((1 - self.activity) * u.shape[1]))
            # One map at a time takes less memory.
            bias.copy_(-torch.stack([row.kthvalue(below).values for row in u]))

    @property
    def centroids(self) -> Tensor:
        """The centroids, (K, D), of unit norm: whitened patches."""
        return self.whitened.centroids(self._filters)

    @property
    def _filters(self) -> Tensor:
        """The layer's filters as rows, (K, D): a copy where they are channels-last."""
        return self.layer.conv.weight.detach().flatten(1)
