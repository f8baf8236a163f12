"""The convolutional restricted Boltzmann machine, as a stage."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import energy
from pretrain.errors import UserError, require_between
from pretrain.stages.base import AutogradStage, Layer, choose, require_unit_range

ACTIVATION_OF = {"bernoulli": "sigmoid", "rectified": "relu"}  # the layer's, for each kind of hidden units


class ConvRBM(AutogradStage):
    """A convolutional restricted Boltzmann machine, trained by contrastive divergence, CD-k.

    Its energy is ``E(v, h) = visible energy(v) - sum h (W * v + b)`` with the valid convolution ``W * v``, one
    hidden bias a map and one visible bias a channel (Lee et al. 2009). A pixel at an edge is seen by fewer hidden
    units than one inside, so the model says less about it; `padding` gives it more, whose other inputs are zero.
    A dense RBM is the case of a filter as large as the image.

    The gradient of CD-k is that of ``F(v data) - F(v after k Gibbs steps)``, free energies with the visible units
    held fixed (Hinton 2002), so the hidden units enter it by their probabilities, not by samples.

    Parameters
    ----------
    in_channels : int
        Channels of the visible layer.
    out_channels : int
        Hidden maps.
    kernel_size, padding, pool
        Those of `Layer`, but that no padding is the default.
    visible : {"gaussian", "bernoulli"}
        Real-valued with unit variance, for standardised images; or 0 to 1, for probabilities of a stage below.
    hidden : {"bernoulli", "rectified"}
        0 or 1; or noisy rectified linear (Nair and Hinton 2010).
    pooling : {"max", "probabilistic"}
        Max-pooling after training, which training ignores; or probabilistic max-pooling (Lee et al. 2009) of
        Bernoulli units, of which one at most in each window is on.
    gibbs_steps : int
        k.
    sample_last : bool
        Draw the visible units of the last step, which makes the gradient exact as k grows; or take their means,
        which carry less noise (Hinton 2010, section 3.2).
    sparsity_target : float
        Wanted mean activation of each map; weighs nothing with `sparsity_weight` 0.
    sparsity_weight : float
        Factor of the squared distance from the target (Lee, Ekanadham and Ng 2008, equation 5).

    Raises
    ------
    UserError
        When a setting is unknown or out of its range.

    References
    ----------
    Hinton (2002), Training products of experts by minimizing contrastive divergence, Neural Computation 14.
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML.
    """

    monitor = "reconstruction"

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 64,
        kernel_size: int = 5,
        padding: int = 0,
        pool: int = 2,
        visible: str = "gaussian",
        hidden: str = "bernoulli",
        pooling: str = "probabilistic",
        gibbs_steps: int = 1,
        sample_last: bool = False,
        sparsity_target: float = 0.05,
        sparsity_weight: float = 0.0,
    ):
        super().__init__()
        choose("visible", visible, ("gaussian", "bernoulli"))
        choose("hidden", hidden, ACTIVATION_OF)
        require_between("gibbs_steps", gibbs_steps, 1)
        require_between("sparsity_target", sparsity_target, 0)
        require_between("sparsity_weight", sparsity_weight, 0)
        if pooling == "probabilistic" and hidden != "bernoulli":
            raise UserError(f"pooling=probabilistic is of Bernoulli units: use pooling=max with hidden={hidden}.")
        self.out_channels, self.gibbs_steps = out_channels, gibbs_steps
        self.visible, self.hidden, self.pooling, self.sample_last = visible, hidden, pooling, sample_last
        self.sparsity_target, self.sparsity_weight = sparsity_target, sparsity_weight
        self.layer = Layer(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            padding=padding,
            activation=ACTIVATION_OF[hidden],
            pool=pool,
            pooling=pooling,
        )
        nn.init.normal_(self.layer.conv.weight, std=0.01)  # Hinton (2010), section 8
        assert self.layer.conv.bias is not None
        nn.init.zeros_(self.layer.conv.bias)
        self.visible_bias = nn.Parameter(torch.zeros(in_channels))

    def prepare(self, images: Tensor, generator: torch.Generator) -> None:
        """Refuse inputs that the visible units cannot take."""
        if self.visible == "bernoulli":
            advice = "visible=gaussian, or stack.preprocessing=none with stack.rescale=false and Bernoulli units below"
            require_unit_range("visible=bernoulli", images, advice)

    def losses(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss that CD-k differentiates, and what tells how the machine is doing.

        In eval mode, where nothing is random, the loss leaves out the chain.
        """
        # Probabilities of 8 bits would bias what is drawn by them.
        with torch.autocast(x.device.type, enabled=False):
            inputs = self.hidden_input(x)  # (N, K, H, W)
            free_energy = self.free_energy(x, inputs)
            loss = free_energy.mean()
            with torch.no_grad():
                mean = self.hidden_mean(inputs)
                model = self.gibbs(inputs, generator) if self.training else self.visible_mean(mean)
            if self.training:
                loss = loss - self.free_energy(model).mean()
            if self.sparsity_weight:
                activity = self.hidden_mean(inputs).mean(dim=(0, 2, 3))  # (K,)
                loss = loss + self.sparsity_weight * (activity - self.sparsity_target).square().sum()
        return {
            "loss": loss,
            "reconstruction": F.mse_loss(model, x),
            "free_energy": free_energy.detach().mean(),
            "active": mean.mean(),
        }

    def hidden_input(self, v: Tensor) -> Tensor:
        """Return what the hidden units receive, W * v + b: (N, C, H, W) -> (N, K, H', W')."""
        return self.layer.conv(v)

    def hidden_mean(self, inputs: Tensor) -> Tensor:
        """Return the mean of the hidden units given what they receive; of rectified ones, without their noise."""
        if self.pooling == "probabilistic":
            return energy.pooled_mean(inputs, self.layer.pool_size)
        return inputs.sigmoid() if self.hidden == "bernoulli" else inputs.relu()

    def sample_hidden(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the hidden units given what they receive."""
        if self.pooling == "probabilistic":
            return energy.sample_pooled(inputs, self.layer.pool_size, generator)
        draw = energy.sample_bernoulli if self.hidden == "bernoulli" else energy.sample_rectified
        return draw(inputs, generator)

    def visible_mean(self, h: Tensor) -> Tensor:
        """Return the mean of the visible units given the hidden ones: (N, K, H', W') -> (N, C, H, W)."""
        field = F.conv_transpose2d(h, self.layer.conv.weight, self.visible_bias, padding=self.layer.padding)
        return field if self.visible == "gaussian" else field.sigmoid()

    def sample_visible(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the visible units given the hidden ones."""
        mean = self.visible_mean(h)
        if self.visible == "gaussian":
            return mean + torch.empty_like(mean).normal_(generator=generator)
        return (energy.uniform_like(mean, generator) < mean).to(mean.dtype)

    @torch.no_grad()
    def gibbs(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return visible units after `gibbs_steps` steps from hidden units that receive `inputs`."""
        for _ in range(self.gibbs_steps - 1):
            inputs = self.hidden_input(self.sample_visible(self.sample_hidden(inputs, generator), generator))
        h = self.sample_hidden(inputs, generator)
        return self.sample_visible(h, generator) if self.sample_last else self.visible_mean(h)

    def free_energy(self, v: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return F(v), (N,), of visible units (N, C, H, W); `inputs`, where at hand, is `hidden_input(v)`."""
        inputs = self.hidden_input(v) if inputs is None else inputs
        if self.visible == "gaussian":
            visible = energy.gaussian_energy(v, self.visible_bias, torch.zeros_like(self.visible_bias))
        else:
            visible = energy.bernoulli_energy(v, self.visible_bias)
        if self.pooling == "probabilistic":
            return visible + energy.pooled_free_energy(inputs, self.layer.pool_size)
        part = energy.bernoulli_free_energy if self.hidden == "bernoulli" else energy.rectified_free_energy
        return visible + part(inputs)

    def decode(self, y: Tensor, context: object) -> Tensor:
        """Return the visible units' mean given the layer's output, each pooled unit spread over its window."""
        size = self.layer.pool_size
        h = F.interpolate(y / self.layer.scale, scale_factor=size) if size > 1 else y / self.layer.scale
        if self.pooling == "probabilistic":  # one unit of a window at most is on: each has its share
            h = h / size**2
        return self.visible_mean(h)
