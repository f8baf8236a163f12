"""Learning to tell images apart by what two random views of each have in common, as a stage."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.data.contrastive_views import Views
from pretrain.errors import UserError, choose, require_between
from pretrain.network.channel_moments import channel_moments
from pretrain.network.layer import Layer
from pretrain.stages.base import AutogradStage, Metrics, activity
from pretrain.stages.contrastive_losses import info_nce, vicreg

CHUNK = 100  # inputs at a time, of those that the normalization is measured on
EPSILON = 1e-5  # added to the variance of a map


class Contrastive(AutogradStage):
    """A layer whose output should be alike for two views of an image, by a loss of its own.

    The layer's maps are normalized over the batch before its activation (Ioffe and Szegedy 2015); that becomes a part
    of its filters and biases at the end. Its output is averaged over a grid of places; at each of them the same small
    network, a projection head that is thrown away afterwards, looks at it; the mean of what it finds is compared
    between views; or what it finds at each place of the grid, with what it finds at the same place of the other view,
    which shows another part of the image. No gradient reaches the layers below (Lowe, O'Connor and Veeling 2019).

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    out_channels : int
        Filters.
    kernel_size, stride, padding, pool, window, pooling
        Those of `Layer`, whose activation is "relu".
    loss : {"info_nce", "vicreg"}
        Find the other view of an image among those of the batch; or have both views agree while features vary and do
        not repeat each other. See `pretrain.functional`.
    loss_per : {"image", "place"}
        One loss of the mean over places, or the mean of a loss at each place.
    temperature : float
        Of "info_nce".
    grid : int
        Places along a side that the projection head sees, or as many as there are.
    hidden, projection : int
        Units of the projection head, and numbers that it puts out.
    crop, size, flip, jitter, gray
        Those of `pretrain.data.views.Views`: how views are made.

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

    data_parallel = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 128,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        pool: int = 2,
        window: int | None = None,
        pooling: str = "max",
        loss: str = "info_nce",
        loss_per: str = "image",
        temperature: float = 0.2,
        grid: int = 4,
        hidden: int = 256,
        projection: int = 64,
        crop: float = 0.25,
        size: float = 1.0,
        flip: bool = True,
        jitter: float = 0.4,
        gray: float = 0.2,
    ):
        super().__init__()
        choose("loss", loss, ("info_nce", "vicreg"))
        choose("loss_per", loss_per, ("image", "place"))
        require_between("temperature", temperature, 1e-3)
        for name, value in {"grid": grid, "hidden": hidden, "projection": projection}.items():
            require_between(name, value, 1)
        self.views = Views(crop, size, flip, jitter, gray)
        self.out_channels, self.grid = out_channels, grid
        self.loss, self.loss_per, self.temperature = loss, loss_per, temperature
        self.layer = Layer(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            pool=pool,
            window=window,
            pooling=pooling,
        )
        self.layer.reset_parameters()
        self.head = nn.Sequential(
            nn.Conv2d(out_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(hidden, projection, 1),
        )

    def losses(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of inputs, (2 N, C, H, W), of two views, and how similar the views are: their mean cosine."""
        if len(x) < 4:
            raise UserError("batch_size=1: a batch is looked at as a whole; give at least 2.")
        y = self.layer.pool(self._hidden(x))
        places = F.adaptive_avg_pool2d(y, (min(self.grid, y.shape[2]), min(self.grid, y.shape[3])))
        z = self.head(places)
        if self.loss_per == "image":
            z = z.mean(dim=(2, 3), keepdim=True)
        with torch.autocast(z.device.type, enabled=False):
            first, second = z.to(torch.promote_types(z.dtype, torch.float32)).flatten(2).chunk(2)
            pairs = zip(first.unbind(2), second.unbind(2), strict=True)
            loss = torch.stack([self._loss(*pair) for pair in pairs]).mean()
        return {"loss": loss, "similarity": F.cosine_similarity(first.detach(), second.detach()).mean()}

    def _loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of projections, (N, D), of two views of each image."""
        return info_nce(first, second, self.temperature) if self.loss == "info_nce" else vicreg(first, second)

    def _hidden(self, x: Tensor) -> Tensor:
        """Return the activations before pooling of inputs, (N, C, H, W), normalized over them."""
        return self.layer.activation(F.batch_norm(self.layer.conv(x), None, None, training=True, eps=EPSILON))

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return what every stage tells of inputs, (N, C, H, W): no loss, since these are no views."""
        return {"weight_norm": float(self.layer.conv.weight.norm()), **activity(self._hidden(x).float())}

    @torch.no_grad()
    def finish(self, images: Tensor) -> None:
        """Make the normalization a part of the filters and biases, by its statistics on a sample of the inputs."""
        conv = self.layer.conv
        assert conv.bias is not None
        mean, variance = channel_moments(conv(chunk) for chunk in images.split(CHUNK))
        factor = (variance + EPSILON).rsqrt().to(conv.weight)
        conv.weight.mul_(factor[:, None, None, None])
        conv.bias.sub_(mean.to(conv.bias)).mul_(factor)
