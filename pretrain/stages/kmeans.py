"""K-means on whitened patches, as a stage."""

import torch
from torch import Tensor, nn

from pretrain.errors import UserError, choose, require_between
from pretrain.network.layer import Bounds, Layer
from pretrain.network.patches import random_patches
from pretrain.network.preprocessing import contrast_normalized
from pretrain.network.whitening import whitening_power
from pretrain.stages.base import Metrics, Stage

PATCHES = 50_000  # that the whitening is fitted to
CONTRAST = 0.04  # of the inputs' variance, added to that of a patch: what is nearly flat is not blown up
SAMPLE = 100  # images that the biases are set on


class KMeans(Stage):
    """Spherical k-means on contrast-normalized, whitened patches of the input.

    Of a patch p, ``z = W (contrast_normalized(p) - m)`` over its norm, with the ZCA matrix W; each belongs to the
    centroid of unit norm that it is most similar to, ``k = argmax d_k' z`` (Dhillon and Modha 2001). A step moves each
    centroid towards the mean of the patches of a batch that belong to it, and back to unit norm. Patches, whitening and
    encoding are those of Coates and Ng (2012), whose own k-means takes the sign of d_k' z as a part of the code.

    Since ``d_k' W (p - mean(p)) = (W d_k)' p`` for the centered W and d_k, whitening needs no layer of its own: the
    layer's filters are W d_k. It divides no patch by its contrast: strong edges answer strongly.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    out_channels : int
        Number of centroids.
    kernel_size, stride, padding, pool, window, pooling, power
        Those of `Layer`.
    activation : {"relu", "triangle"}
        "relu": a soft threshold, which is set so that each map is active at a share `active` of the positions of the
        unlabelled images. "triangle": the soft competition of Coates, Ng and Lee (2011), of similarities.
    active : float
        See `activation`; from 0 to 1.
    whitening : float
        What is added to the variances that whitening divides by, as a share of their mean: the greater, the less is
        made of fine detail and noise.
    patches : int
        Times the images of a batch: so many are drawn, at random, from all of them.

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

    monitor = "distance"
    objective = None
    data_parallel = False
    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor
    flat: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        kernel_size: int = 5,
        stride: int = 1,
        padding: int | None = None,
        activation: str = "relu",
        power: float = 1.0,
        active: float = 0.25,
        pool: int = 2,
        window: int | None = None,
        pooling: str = "max",
        whitening: float = 0.1,
        patches: int = 16,
    ):
        super().__init__()
        choose("activation", activation, ("relu", "triangle"))
        require_between("whitening", whitening, 1e-6)
        require_between("patches", patches, 1)
        if not 0 < active < 1:
            raise UserError(f"active={active}: it must lie between 0 and 1.")
        self.out_channels, self.active, self.whitening, self.patches = out_channels, active, whitening, patches
        self.layer = Layer(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            activation=activation,
            pool=pool,
            window=window,
            pooling=pooling,
            power=power,
        )
        size = in_channels * kernel_size**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whiten", torch.eye(size))
        self.register_buffer("unwhiten", torch.eye(size))
        self.register_buffer("flat", torch.tensor(CONTRAST))
        self.constrain()
        nn.init.zeros_(self.layer.conv.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Fit the whitening to patches of a sample of the inputs, and start from some of them."""
        self.flat.copy_((CONTRAST * images.var()).clamp(min=1e-6))  # images may all be of one gray
        p = self._patches(images, PATCHES, generator).cpu().double()
        self.mean.copy_(p.mean(dim=0))
        covariance = torch.cov(p.T)
        self.whiten.copy_(whitening_power(covariance, self.whitening, -0.5))
        self.unwhiten.copy_(whitening_power(covariance, self.whitening, 0.5))
        chosen = torch.randperm(len(p), generator=generator)[: self.out_channels]
        start = self._whitened(p[chosen].to(self.mean))
        self.layer.conv.weight.copy_((start @ self.whiten).view_as(self.layer.conv.weight))

    @torch.no_grad()
    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Write ``W d_k - W m_k``, m_k the mean of the patches nearest to centroid d_k, and return the mean distance.

        "distance" is half the mean squared distance of a patch to its centroid, 1 - d' z; "empty" the share of
        centroids that none of the batch's patches is nearest to, which get no update.
        """
        with torch.autocast(x.device.type, enabled=False):
            z, similarity, nearest = self._assign(x, generator)
            members = nn.functional.one_hot(nearest, self.out_channels).to(z).T  # a product has the same bits on a GPU
            counts = members.sum(dim=1, keepdim=True)
            update = self._filters - members @ z / counts.clamp(min=1) @ self.whiten
        conv = self.layer.conv
        conv.weight.grad = torch.where(counts > 0, update, 0).view_as(conv.weight)
        conv.bias.grad = torch.zeros_like(conv.bias)  # type: ignore[union-attr, arg-type]
        return {"distance": float(1 - similarity.mean()), "empty": float((counts == 0).float().mean())}

    def _assign(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return whitened patches of inputs, (n, D), and of each the similarity to the nearest centroid, and which."""
        z = self._whitened(self._patches(x.to(self.mean), len(x) * self.patches, generator))
        return z, *(z @ self.centroids.T).max(dim=1)

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return the mean distance of a patch to its centroid beside what every stage tells."""
        _, similarity, _ = self._assign(x, generator)
        return {"distance": float(1 - similarity.mean()), **super().health(x, generator)}

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the centroids back to unit norm."""
        norm = self.centroids.norm(dim=1)
        self.layer.conv.weight.div_(norm.clamp(min=1e-12)[:, None, None, None])

    @torch.no_grad()
    def finish(self, images: Tensor) -> None:
        """Set the biases: thresholds of the wanted activity, or the means of maps that compete."""
        bias = self.layer.conv.bias
        assert bias is not None
        bias.zero_()
        u = self.layer.conv(images[:SAMPLE]).transpose(0, 1).flatten(1)  # (K, N H W)
        if self.layer.settings["activation"] == "triangle":
            bias.copy_(-u.mean(dim=1))
        else:
            below = max(1, round((1 - self.active) * u.shape[1]))
            bias.copy_(-torch.stack([row.kthvalue(below).values for row in u]))  # one at a time, for memory

    @property
    def centroids(self) -> Tensor:
        """The centroids, (K, D), of unit norm: whitened patches."""
        return self._filters @ self.unwhiten

    @property
    def _filters(self) -> Tensor:
        """The layer's filters as rows, (K, D): a copy where they are channels-last."""
        return self.layer.conv.weight.detach().flatten(1)

    def _patches(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return random contrast-normalized patches of inputs, (count, D), padded as the convolution pads them."""
        padded = nn.functional.pad(x, [self.layer.padding] * 4)
        p = random_patches(padded, self.layer.settings["kernel_size"], count, generator)
        return contrast_normalized(p.flatten(1), self.flat)

    def _whitened(self, p: Tensor) -> Tensor:
        """Return patches, (N, D), whitened and of unit norm."""
        return nn.functional.normalize((p - self.mean) @ self.whiten, dim=1)
