"""K-means on whitened patches, as a stage."""

import torch
from torch import Tensor, nn

from pretrain.errors import UserError, choose, require_between
from pretrain.functional import contrast_normalised, whitening_power
from pretrain.patches import random_patches
from pretrain.stages.base import Bounds, Layer, Metrics, Stage

PATCHES = 50_000  # that the whitening is fitted to
CONTRAST = 0.04  # added to a patch's variance, of inputs of unit variance: what is nearly flat is not blown up
SAMPLE = 100  # images that the biases are set on
FILTERS = ("random", "patches", "kmeans")  # that other kinds of stage may start from
FEW, PASSES = 10, 20  # patches of each image, and passes over the images, of k-means for them


class KMeans(Stage):
    """Spherical k-means on contrast-normalised, whitened patches of the input.

    Of a patch p, ``z = W (contrast_normalised(p) - m)`` over its norm, with the ZCA matrix W; each belongs to the
    centroid of unit norm that it is most similar to, ``k = argmax d_k' z`` (Coates and Ng 2012, section 2). A step
    moves each centroid towards the mean of the patches of a batch that belong to it, and back to unit norm.

    Since ``d_k' W (p - mean(p)) = (W d_k)' p`` for the centred W and d_k, whitening needs no layer of its own: the
    layer's filters are W d_k. It divides no patch by its contrast: strong edges answer strongly.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    out_channels : int
        Number of centroids.
    kernel_size, stride, padding, pool, pooling, power
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
        Taken from each image of a batch.

    Raises
    ------
    UserError
        When a setting is unknown or out of its range.

    References
    ----------
    Coates, Ng and Lee (2011), An analysis of single-layer networks in unsupervised feature learning. AISTATS.
    Coates and Ng (2012), Learning feature representations with k-means. Neural networks: tricks of the trade.
    """

    monitor = "distance"
    objective = None
    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor

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
            pooling=pooling,
            power=power,
        )
        size = in_channels * kernel_size**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whiten", torch.eye(size))
        self.register_buffer("unwhiten", torch.eye(size))
        self.constrain()
        nn.init.zeros_(self.layer.conv.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Fit the whitening to patches of a sample of the inputs, and start from some of them."""
        side, (height, width) = self.layer.settings["kernel_size"], images.shape[2:]
        if side > min(height, width):
            raise UserError(f"kernel_size={side}: patches so wide do not fit inputs of {height}x{width}.")
        p = self._patches(images, PATCHES, generator).double()
        self.mean.copy_(p.mean(dim=0))
        covariance = torch.cov(p.T)
        self.whiten.copy_(whitening_power(covariance, self.whitening, -0.5))
        self.unwhiten.copy_(whitening_power(covariance, self.whitening, 0.5))
        chosen = torch.randperm(len(p), generator=generator)[: self.out_channels].to(p.device)
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
            counts = torch.bincount(nearest, minlength=self.out_channels).to(z)[:, None]
            sums = torch.zeros_like(self._filters).index_add_(0, nearest, z)
            update = self._filters - sums / counts.clamp(min=1) @ self.whiten
        conv = self.layer.conv
        conv.weight.grad = torch.where(counts > 0, update, 0).view_as(conv.weight)
        conv.bias.grad = torch.zeros_like(conv.bias)  # type: ignore[union-attr, arg-type]
        return {"distance": float(1 - similarity.mean()), "empty": float((counts == 0).float().mean())}

    def _assign(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return whitened patches of inputs, (n, D), and of each the similarity to the nearest centroid, and which."""
        z = self._whitened(self._patches(x.to(self.mean), len(x) * self.patches, generator))
        return z, *(z @ (self._filters @ self.unwhiten).T).max(dim=1)

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return the mean distance of a patch to its centroid beside what every stage tells."""
        _, similarity, _ = self._assign(x, generator)
        return {"distance": float(1 - similarity.mean()), **super().health(x, generator)}

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the centroids back to unit norm."""
        norm = (self._filters @ self.unwhiten).norm(dim=1)
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
            bias.copy_(-u.kthvalue(max(1, round((1 - self.active) * u.shape[1])), dim=1).values)

    @property
    def _filters(self) -> Tensor:
        """The layer's filters as rows, (K, D): a copy where they are channels-last."""
        return self.layer.conv.weight.detach().flatten(1)

    def _patches(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return random contrast-normalised patches of inputs, (count, D)."""
        p = random_patches(x, self.layer.settings["kernel_size"], count, generator)
        return contrast_normalised(p.flatten(1), CONTRAST)

    def _whitened(self, p: Tensor) -> Tensor:
        """Return patches, (N, D), whitened and of unit norm."""
        return nn.functional.normalize((p - self.mean) @ self.whiten, dim=1)


@torch.no_grad()
def start_from_patches(conv: nn.Conv2d, images: Tensor, how: str, generator: torch.Generator) -> None:
    """Give a convolution filters that are whitened patches of its inputs; together they have the norm of those before.

    Parameters
    ----------
    conv : nn.Conv2d
        Its weights are changed in place.
    images : Tensor, (N, C, H, W)
        A sample of its inputs.
    how : {"random", "patches", "kmeans"}
        Leave them as they are; random patches; or the centroids of a short run of k-means, which start from these.
    generator : torch.Generator
        For the draw of the patches.

    References
    ----------
    Coates and Ng (2011), The importance of encoding versus training with sparse coding and vector quantization. ICML.
    """
    choose("filters", how, FILTERS)
    if how == "random":
        return
    stage = KMeans(conv.in_channels, conv.out_channels, conv.kernel_size[0], patches=FEW).to(images.device)
    stage.prepare(images, (images.new_empty(0), images.new_empty(0)), generator)
    for _ in range(PASSES if how == "kmeans" else 0):
        stage.accumulate_grad(images, generator)
        stage.layer.conv.weight.sub_(stage.layer.conv.weight.grad)  # type: ignore[arg-type]
        stage.constrain()
    filters = stage.layer.conv.weight
    conv.weight.copy_(filters * (conv.weight.norm() / filters.norm()))
