"""The convolutional restricted Boltzmann machine, as a stage."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.errors import UserError, choose, require_between
from pretrain.network.layer import Bounds, Layer
from pretrain.rbm.boltzmann_machine import RBM
from pretrain.rbm.centering import centered_gradient
from pretrain.rbm.gibbs_chains import SAMPLERS, ContrastiveDivergence, PersistentChains
from pretrain.rbm.likelihood import pseudo_likelihood
from pretrain.rbm.visible_units import BinaryUnits, GaussianUnits
from pretrain.stages.base import Metrics, Stage, activity
from pretrain.stages.filter_initialization import FILTERS, start_from_patches

ACTIVATION_OF = {"bernoulli": "sigmoid", "rectified": "relu"}  # the layer's, for each kind of hidden units
HIDDEN_SAMPLE = 50  # images from which the running means of the hidden units start
MEMORY = 0.95  # of the running means that Hinton's sparsity and centering go by
LEAST_LOG_VARIANCE = -6.0  # of inputs of unit variance: what is constant would drive it to minus infinity
DIVERGED = 100.0  # times the images' own mean square: no reconstruction is so bad unless the weights run away


class ConvRBM(Stage):
    """A convolutional restricted Boltzmann machine, trained by contrastive divergence or with persistent chains.

    See `pretrain.rbm` for its equations. The gradient is that of minus the mean log-likelihood, with chains in the
    place of the model, divided by the positions that a filter takes, so that a learning rate means the same for images
    of any size. Both sides take the hidden units by their means, not by samples (Hinton 2010, section 3.1).

    Parameters
    ----------
    in_channels : int
        Channels of the visible layer.
    out_channels : int
        Hidden maps.
    kernel_size, padding, pool, window
        Those of `Layer`, but that no padding is the default.
    filters : {"random", "patches", "kmeans"}
        Where the filters start: random numbers of standard deviation 0.01; whitened patches of the inputs, as small,
        drawn at random or by k-means; see `pretrain.stages.kmeans.start_from_patches`.
    visible : {"gaussian", "bernoulli"}
        Real-valued, for standardized images; or of two values, for inputs that lie between two bounds, such as pixels
        (not whitened ones) and the probabilities of a stage below.
    variance : {"fixed", "learned"}
        Of Gaussian visible units: 1, or one for each channel (Cho, Ilin and Raiko 2011).
    hidden : {"bernoulli", "rectified"}
        0 or 1; or noisy rectified linear (Nair and Hinton 2010).
    pooling : {"max", "average", "probabilistic"}
        Pooling after training, which training ignores; or probabilistic max-pooling (Lee et al. 2009) of
        Bernoulli units, of which one at most in each window is on.
    sampler : {"cd", "pcd", "pt"}
        Contrastive divergence; persistent chains (Tieleman 2008); these at several temperatures (Cho et al. 2010).
    gibbs_steps : int
        An update.
    sample_last : bool
        Of "cd": draw the visible units of the last step; or take their means, with less noise.
    chains : int
        Of "pcd" and "pt", at each temperature.
    temperatures : int
        Of "pt".
    sparsity : {"none", "lee", "hinton"}
        Pull the mean activation of each map to a target: by its bias (Lee et al. 2009); or, by the running mean, by
        its bias and filter (Hinton 2010, section 11).
    sparsity_target : float
        From 0 to 1.
    sparsity_weight : float
        Factor of the pull, beside the gradient.
    centered : bool
        Follow the gradient of the centered machine (Montavon and Mueller 2012), which depends less on what the units
        call zero.
    max_norm : float, optional
        Greatest L2 norm of a filter; it is put back after each update.

    Raises
    ------
    UserError
        When a setting is unknown or out of its range.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML.
    """

    monitor = "reconstruction"
    objective = "free_energy"
    low: Tensor
    high: Tensor
    hidden_average: Tensor
    visible_average: Tensor
    input_square: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 64,
        kernel_size: int = 5,
        padding: int = 0,
        pool: int = 2,
        window: int | None = None,
        filters: str = "random",
        visible: str = "gaussian",
        variance: str = "fixed",
        hidden: str = "bernoulli",
        pooling: str = "probabilistic",
        sampler: str = "cd",
        gibbs_steps: int = 1,
        sample_last: bool = False,
        chains: int = 100,
        temperatures: int = 10,
        sparsity: str = "none",
        sparsity_target: float = 0.05,
        sparsity_weight: float = 1.0,
        centered: bool = False,
        max_norm: float | None = None,
    ):
        super().__init__()
        choose("filters", filters, FILTERS)
        choose("visible", visible, ("gaussian", "bernoulli"))
        choose("variance", variance, ("fixed", "learned"))
        choose("hidden", hidden, ACTIVATION_OF)
        choose("sampler", sampler, SAMPLERS)
        choose("sparsity", sparsity, ("none", "lee", "hinton"))
        require_between("gibbs_steps", gibbs_steps, 1)
        require_between("chains", chains, 1)
        require_between("temperatures", temperatures, 2)
        require_between("sparsity_target", sparsity_target, 0, 1)
        require_between("sparsity_weight", sparsity_weight, 0)
        if max_norm is not None:
            require_between("max_norm", max_norm, 1e-6)
        if pooling == "probabilistic" and hidden != "bernoulli":
            raise UserError(f"pooling=probabilistic is of Bernoulli units: use pooling=max with hidden={hidden}.")
        if variance == "learned" and (visible != "gaussian" or (sampler == "cd" and not sample_last)):
            raise UserError(
                "variance=learned needs visible=gaussian, and sample_last=true with sampler=cd: means have no variance."
            )
        self.out_channels, self.visible, self.hidden, self.pooling = out_channels, visible, hidden, pooling
        self.sparsity, self.sparsity_target, self.sparsity_weight = sparsity, sparsity_target, sparsity_weight
        self.centered, self.max_norm, self.filters = centered, max_norm, filters
        self.data_parallel = not centered and sparsity != "hinton"  # which multiply means over the batch
        self.layer = Layer(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            padding=padding,
            activation=ACTIVATION_OF[hidden],
            pool=pool,
            window=window,
            pooling=pooling,
        )
        nn.init.normal_(self.layer.conv.weight, std=0.01)  # Hinton (2010), section 8
        assert self.layer.conv.bias is not None
        nn.init.zeros_(self.layer.conv.bias)
        self.visible_bias = nn.Parameter(torch.zeros(in_channels))
        if variance == "learned":
            self.log_variance: Tensor = nn.Parameter(torch.zeros(in_channels))
        else:
            self.register_buffer("log_variance", torch.zeros(in_channels))
        self.sampler: ContrastiveDivergence | PersistentChains = ContrastiveDivergence(gibbs_steps, sample_last)
        if sampler != "cd":
            self.sampler = PersistentChains(gibbs_steps, chains, temperatures if sampler == "pt" else 1)
        self.register_buffer("low", torch.zeros(in_channels))
        self.register_buffer("high", torch.ones(in_channels))
        self.register_buffer("hidden_average", torch.zeros(out_channels))
        self.register_buffer("visible_average", torch.zeros(in_channels))
        self.register_buffer("input_square", torch.ones(()))

    def tiny(self, kernel_size: int) -> "ConvRBM":
        """Return an untrained machine of one channel and one map, with units of the same kinds, to be gone through."""
        learned = isinstance(self.log_variance, nn.Parameter)
        return ConvRBM(
            1,
            1,
            kernel_size,
            visible=self.visible,
            variance="learned" if learned else "fixed",
            sample_last=learned,
            hidden=self.hidden,
            pooling=self.pooling,
        )

    @property
    def rbm(self) -> RBM:
        """The machine that the parameters make as they stand."""
        conv = self.layer.conv
        assert conv.bias is not None
        if self.visible == "gaussian":
            visible: GaussianUnits | BinaryUnits = GaussianUnits(self.visible_bias, self.log_variance)
        else:
            visible = BinaryUnits(self.visible_bias, self.low, self.high)
        block = self.layer.pool_size if self.pooling == "probabilistic" else 1
        return RBM(conv.weight, conv.bias, visible, self.hidden, block, self.layer.padding)

    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Take the bounds of binary visible units, start filters and chains, and let visible biases fit the mean.

        Raises
        ------
        UserError
            When binary visible units are to stand on inputs without bounds.
        """
        mean = images.mean(dim=(0, 2, 3))
        self.visible_average.copy_(mean)
        self.input_square.copy_(images.square().mean().clamp(min=0.01))  # images may all be of one gray
        bias = mean
        if self.visible == "bernoulli":
            if not torch.stack(bounds).isfinite().all():
                raise UserError(
                    "visible=bernoulli needs inputs that lie between two bounds, such as pixels that are not whitened "
                    "or what a stage of Bernoulli hidden units puts out: use visible=gaussian."
                )
            self.low.copy_(bounds[0])
            self.high.copy_(bounds[1])
            bias = ((mean - self.low) / (self.high - self.low)).logit(eps=1e-3)  # Hinton (2010), section 8.1
        start_from_patches(self.layer.conv, images, self.filters, generator)
        with torch.no_grad():
            self.visible_bias.copy_(bias)
            few = images[:HIDDEN_SAMPLE]
            self.hidden_average.copy_(self.rbm.hidden_mean(self.rbm.hidden_input(few)).mean(dim=(0, 2, 3)))
        self.sampler.start(images, generator)

    @torch.no_grad()
    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Write the gradient of the mean of ``F(v data) - F(v model)`` over images and positions of a filter.

        In eval mode, where nothing is random, that of the mean ``F(v data)`` alone, as "free_energy" is measured then.
        """
        rbm = self.rbm
        received = rbm.hidden_input(x)  # (N, K, H', W')
        h = rbm.hidden_mean(received)
        positions = h[0, 0].numel()
        weights = x.new_full((len(x),), 1 / (len(x) * positions))
        if not self.training:
            free_energy = rbm.free_energy(x, received).mean() / positions
            self.write_gradient(rbm.gradient((x, h, weights)))
            return {"free_energy": float(free_energy), "reconstruction": self._error(rbm.visible_mean(h), x)}
        v, figures = self.sampler.draw(rbm, received, h, generator)
        model = v, rbm.hidden_mean(rbm.hidden_input(v)), v.new_full((len(v),), -1 / (len(v) * positions))
        gradient = rbm.gradient((x, h, weights), model)
        if self.centered or self.sparsity != "none":
            activity = h.mean(dim=(0, 2, 3))  # (K,)
            self.hidden_average.lerp_(activity, 1 - MEMORY)
            self.visible_average.lerp_(x.mean(dim=(0, 2, 3)), 1 - MEMORY)
            if self.centered:
                means, overlap = (self.hidden_average, self.visible_average), positions / x[0, 0].numel()
                gradient = centered_gradient(gradient, *means, rbm.visible.gain, overlap)
            gradient = self._sparsify(gradient, activity, x)
        self.write_gradient(gradient)
        reconstruction = v if self.sampler.reconstructs else rbm.visible_mean(h)
        return {"reconstruction": self._error(reconstruction, x), **figures}

    def _error(self, reconstruction: Tensor, x: Tensor) -> float:
        """Return the mean squared error, of binary units as if they were 0 and 1."""
        gain = self.high - self.low if self.visible == "bernoulli" else torch.ones_like(self.high)
        return float(((reconstruction - x) / gain[:, None, None]).square().mean())

    def _sparsify(self, gradient: dict[str, Tensor], activity: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Add the pull of the mean activations, (K,), to their target."""
        if self.sparsity == "none":
            return gradient
        mean = activity if self.sparsity == "lee" else self.hidden_average
        pull = self.sparsity_weight * (mean - self.sparsity_target)
        gradient["hidden_bias"] = gradient["hidden_bias"] + pull
        if self.sparsity == "hinton":
            size = self.layer.conv.kernel_size[0]
            patch = F.unfold(x.mean(dim=0, keepdim=True), size, padding=self.layer.padding).mean(dim=2)
            gradient["weight"] = gradient["weight"] + pull[:, None, None, None] * patch.view(1, -1, size, size)
        return gradient

    def write_gradient(self, gradient: dict[str, Tensor]) -> None:
        """Add what `RBM.gradient` returns to the gradients of the parameters."""
        conv = self.layer.conv
        for parameter, name in (
            (conv.weight, "weight"),
            (conv.bias, "hidden_bias"),
            (self.visible_bias, "visible_bias"),
            (self.log_variance, "log_variance"),  # a parameter only where it is learned
        ):
            assert parameter is not None
            if parameter.requires_grad:
                value = gradient[name].to(parameter.dtype)
                parameter.grad = value if parameter.grad is None else parameter.grad + value

    @torch.no_grad()
    def constrain(self) -> None:
        """Shorten the filters whose norm exceeds `max_norm`, and keep learned variances off zero."""
        if isinstance(self.log_variance, nn.Parameter):
            self.log_variance.clamp_(min=LEAST_LOG_VARIANCE)
        if self.max_norm is not None:
            weight = self.layer.conv.weight
            weight.copy_(torch.renorm(weight, p=2, dim=0, maxnorm=self.max_norm))

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return the free energy (nats an image), the reconstruction error, activity, and what else there is to know.

        "pseudo_likelihood" (nats an image) is that of binary visible units alone.
        """
        rbm = self.rbm
        received = rbm.hidden_input(x)
        h = rbm.hidden_mean(received)
        figures = {
            "free_energy": float(rbm.free_energy(x, received).mean()),
            "reconstruction": self._error(rbm.visible_mean(h), x),
            "weight_norm": float(rbm.weight.norm()),
            **activity(h),
        }
        if self.visible == "bernoulli":
            figures["pseudo_likelihood"] = float(pseudo_likelihood(rbm, x, generator).mean())
        return figures

    def diagnose(self, metrics: Metrics, learning_rate: float) -> str | None:
        """Return what is wrong when the reconstructions run away, and which setting it is likely to be."""
        trouble = super().diagnose(metrics, learning_rate)
        if self.visible == "gaussian" and (trouble or metrics["reconstruction"] > DIVERGED * float(self.input_square)):
            return (
                f"it diverges: visible units are Gaussian and the learning rate {learning_rate:g} is 10 to 100 times "
                "too large for them"
            )
        return trouble

    def decode(self, y: Tensor, context: object) -> Tensor:
        """Return the visible units' mean given the layer's output, each pooled unit spread over its window."""
        h = self.layer.spread(self.layer.pooled(y))
        if self.pooling == "probabilistic":  # one unit of a window at most is on: each has its share
            h = h / self.layer.pool_size**2
        return self.rbm.visible_mean(h)

    @torch.no_grad()
    def sample(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Return visible units after so many Gibbs steps from `x`; of the last step, their means."""
        rbm = self.rbm
        for _ in range(steps - 1):
            x = rbm.gibbs_step(x, generator)
        received = rbm.hidden_input(x)
        return rbm.visible_mean(rbm.sample_hidden(received, generator) if steps else rbm.hidden_mean(received))
