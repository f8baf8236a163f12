"""The convolutional restricted Boltzmann machine, as a stage."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.network.layer import Bounds, Layer
from pretrain.rbm.boltzmann_machine import RBM
from pretrain.rbm.centering import centered_gradient
from pretrain.rbm.exact_enumeration import negative_log_likelihood
from pretrain.rbm.gibbs_chains import ContrastiveDivergence, PersistentChains
from pretrain.rbm.likelihood import pseudo_likelihood
from pretrain.rbm.visible_units import BinaryUnits, GaussianUnits
from pretrain.runs.batch_parts import part_of
from pretrain.runs.seeding import generator as named_generator
from pretrain.stages.base import Metric, Metrics, Objective, Stage, activity
from pretrain.stages.filter_initialization import initialize_filters
from pretrain.stages.kind_settings import ConvRBMSettings

HIDDEN_UNITS = {"sigmoid": "bernoulli", "relu": "rectified"}  # for each activation of the layer
HIDDEN_SAMPLE = 50  # images from which the running means of the hidden units start
MEMORY = 0.95  # decay of the running means that Hinton's sparsity and centering use
# Inputs have unit variance. Those that are constant would drive a learned log-variance to minus infinity.
LEAST_LOG_VARIANCE = -6.0
# No reconstruction error exceeds the images' own mean square this many times unless the weights run away.
DIVERGED = 100.0


class ConvRBM(Stage):
    """A convolutional restricted Boltzmann machine, trained by contrastive divergence or with persistent chains.

    Its equations are in `pretrain.rbm`. The gradient is that of minus the mean log-likelihood, with chains in the place
    of the model, divided by the number of positions of a filter, so that a learning rate means the same for images of
    any size. Both sides take the hidden units by their means, not by samples (Hinton 2010, section 3.1).

    Parameters
    ----------
    layer : Layer
        Its activation decides the hidden units: "sigmoid" makes them 0 or 1, "relu" noisy rectified linear (Nair and
        Hinton 2010). Its stride is 1. With pooling "probabilistic" at most one hidden unit in each window is on (Lee et
        al. 2009); training ignores any other pooling. Its output channels are the hidden maps.
    **settings
        Those of `ConvRBMSettings`.

    Raises
    ------
    UserError
        When a setting is unknown, out of its range, or contradicts another.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML.
    """

    Settings = ConvRBMSettings
    description = "a convolutional restricted Boltzmann machine"
    metrics = (
        Metric("reconstruction", "reconstruction error", held_out=True),
        Metric("free_energy", "free energy (nats per image)", held_out=True),
        Metric("free_energy_gap", "free energy, held out minus training", color=2),
        Metric("pseudo_likelihood", "pseudo-likelihood (nats per image)", held_out=True),
        *Stage.metrics,
        Metric("mixing", "chains", "mixing", 0, of_batches=True),
        Metric("swaps", "chains", "swaps", 1, of_batches=True),
    )
    monitor = "reconstruction"
    objective = "free_energy"
    low: Tensor
    high: Tensor
    hidden_average: Tensor
    visible_average: Tensor
    input_square: Tensor

    def __init__(self, layer: Layer, **settings: Any):
        super().__init__(layer)
        own = ConvRBMSettings(**settings)
        own.check_layer(layer.settings)
        self.visible, self.centered, self.max_norm, self.filter_init = (
            own.visible,
            own.centered,
            own.max_norm,
            own.filter_init,
        )
        self.sparsity, self.sparsity_target, self.sparsity_weight = (
            own.sparsity,
            own.sparsity_target,
            own.sparsity_weight,
        )
        self.sampler: ContrastiveDivergence | PersistentChains
        if own.sampler == "cd":
            self.sampler = ContrastiveDivergence(own.gibbs_steps, own.sample_last)
        else:
            temperatures = own.temperatures if own.sampler == "pt" else 1
            self.sampler = PersistentChains(own.gibbs_steps, own.chains, temperatures)
        self._make_parameters(learned_variance=own.variance == "learned")

    def _make_parameters(self, *, learned_variance: bool) -> None:
        """Initialize the layer as Hinton (2010), section 8, does, and add what an RBM has besides it."""
        conv, in_channels = self.layer.conv, self.layer.settings.in_channels
        assert conv.bias is not None
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)
        self.visible_bias = nn.Parameter(torch.zeros(in_channels))
        if learned_variance:
            self.log_variance: Tensor = nn.Parameter(torch.zeros(in_channels))
        else:
            self.register_buffer("log_variance", torch.zeros(in_channels))
        self.register_buffer("low", torch.zeros(in_channels))
        self.register_buffer("high", torch.ones(in_channels))
        self.register_buffer("hidden_average", torch.zeros(self.out_channels))
        self.register_buffer("visible_average", torch.zeros(in_channels))
        self.register_buffer("input_square", torch.ones(()))

    @property
    def hidden(self) -> str:
        """The kind of hidden units: "bernoulli" or "rectified"."""
        return HIDDEN_UNITS[self.layer.settings.activation]

    @property
    def shared_out(self) -> dict[str, int]:
        """The persistent chains, where there are any."""
        return {"chains": self.sampler.chains} if isinstance(self.sampler, PersistentChains) else {}

    @property
    def probabilistic(self) -> bool:
        """Whether at most one hidden unit in each pooling window is on."""
        return self.layer.settings.pooling == "probabilistic"

    def tiny(self, kernel_size: int) -> "ConvRBM":
        """Return an untrained RBM of one channel and one map, with units of the same kinds, to be enumerated."""
        learned = isinstance(self.log_variance, nn.Parameter)
        kinds = {"activation": self.layer.settings.activation, "pooling": self.layer.settings.pooling}
        layer = Layer(1, 1, kernel_size=kernel_size, padding=0, **kinds)
        variance = "learned" if learned else "fixed"
        return ConvRBM(layer, visible=self.visible, variance=variance, sample_last=learned)

    def objectives(self, x: Tensor) -> list[Objective]:
        """Add the exact likelihood of a tiny RBM, unless the hidden units are rectified: their states are countless."""
        return [*super().objectives(x), *([self._likelihood()] if self.hidden == "bernoulli" else [])]

    def _likelihood(self) -> Objective:
        """Return the exact likelihood of a tiny RBM with the same units, on data drawn at random."""
        gaussian = self.visible == "gaussian"
        # A quadrature over more than four units, or a mixture of many, would take too long.
        side, kernel_size = (2, 1 if self.probabilistic else 2) if gaussian else (3, 2)
        tiny, draw = self.tiny(kernel_size).double(), named_generator(0, "gradcheck", "tiny")
        for parameter in tiny.parameters():
            nn.init.normal_(parameter, std=0.5, generator=draw)
        data = torch.randn(6, 1, side, side, generator=draw, dtype=torch.float64)
        data = data if gaussian else (data > 0).double()

        @torch.no_grad()
        def compute() -> float:
            tiny.zero_grad()
            value, gradient = negative_log_likelihood(tiny.rbm, data)
            tiny.write_gradient(gradient)
            return value

        return Objective("exact likelihood of a tiny RBM with its units", tiny, compute)

    @property
    def rbm(self) -> RBM:
        """The RBM with the present parameters."""
        conv = self.layer.conv
        assert conv.bias is not None
        if self.visible == "gaussian":
            visible: GaussianUnits | BinaryUnits = GaussianUnits(self.visible_bias, self.log_variance)
        else:
            visible = BinaryUnits(self.visible_bias, self.low, self.high)
        block = self.layer.pool_stride if self.probabilistic else 1
        return RBM(conv.weight, conv.bias, visible, self.hidden, block, self.layer.padding)

    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Take the bounds of binary visible units, initialize filters and chains, and fit visible biases to the mean.

        Raises
        ------
        UserError
            When binary visible units are to stand on inputs without bounds.
        """
        mean = images.mean(dim=(0, 2, 3))
        self.visible_average.copy_(mean)
        # Images may all be of one gray, whose square is zero.
        self.input_square.copy_(images.square().mean().clamp(min=0.01))
        bias = mean
        if self.visible == "bernoulli":
            if not torch.stack(bounds).isfinite().all():
                raise UserError(
                    "visible=bernoulli needs inputs that lie between two bounds, such as pixels that are not whitened "
                    "or the output of a stage with sigmoid units: use visible=gaussian."
                )
            self.low.copy_(bounds[0])
            self.high.copy_(bounds[1])
            # Hinton (2010), section 8.1, starts the visible biases so.
            bias = ((mean - self.low) / (self.high - self.low)).logit(eps=1e-3)
        initialize_filters(self.layer.conv, images, self.filter_init, generator)
        with torch.no_grad():
            self.visible_bias.copy_(bias)
            few = images[:HIDDEN_SAMPLE]
            self.hidden_average.copy_(self.rbm.hidden_mean(self.rbm.hidden_input(few)).mean(dim=(0, 2, 3)))
        self.sampler.start(images, generator)

    @torch.no_grad()
    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Write the gradient of the mean of ``F(v data) - F(v model)`` over images and positions of a filter.

        In eval mode, where nothing is random, it is the gradient of the mean ``F(v data)`` alone, "free_energy".
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
            part = part_of(generator)
            mean = part.mean(h.mean(dim=(0, 2, 3)))  # (K,)
            self.hidden_average.lerp_(mean, 1 - MEMORY)
            self.visible_average.lerp_(part.mean(x.mean(dim=(0, 2, 3))), 1 - MEMORY)
            if self.centered:
                means, overlap = (self.hidden_average, self.visible_average), positions / x[0, 0].numel()
                gradient = centered_gradient(gradient, *means, rbm.visible.gain, overlap)
            gradient = self._sparsify(gradient, mean, x)
        self.write_gradient(gradient)
        reconstruction = v if self.sampler.reconstructs else rbm.visible_mean(h)
        return {"reconstruction": self._error(reconstruction, x), **figures}

    def _error(self, reconstruction: Tensor, x: Tensor) -> float:
        """Return the mean squared error; binary units count as 0 and 1."""
        gain = self.high - self.low if self.visible == "bernoulli" else torch.ones_like(self.high)
        return float(((reconstruction - x) / gain[:, None, None]).square().mean())

    def _sparsify(self, gradient: dict[str, Tensor], mean: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Add the pull of the mean activations, (K,), to their target."""
        if self.sparsity == "none":
            return gradient
        mean = mean if self.sparsity == "lee" else self.hidden_average
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
            # The variance is a parameter only where it is learned, and a buffer elsewhere.
            (self.log_variance, "log_variance"),
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
        """Return the free energy (nats per image), the reconstruction error, and the figures of every stage.

        Binary visible units also have a "pseudo_likelihood" (nats per image).
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

    def held_out_health(self, learned: Metrics, held_out: Metrics) -> Metrics:
        """Add the gap of the free energies, which grows where the RBM memorizes (Hinton 2010, section 6)."""
        gap = held_out["free_energy"] - learned["free_energy"]
        return {**super().held_out_health(learned, held_out), "free_energy_gap": gap}

    def diagnose(self, metrics: Metrics, learning_rate: float) -> str | None:
        """Diagnose reconstructions that run away, beside what every stage diagnoses."""
        trouble = super().diagnose(metrics, learning_rate)
        if self.visible == "gaussian" and (trouble or metrics["reconstruction"] > DIVERGED * float(self.input_square)):
            return (
                f"it diverges: visible units are Gaussian and the learning rate {learning_rate:g} is 10 to 100 times "
                "too large for them"
            )
        return trouble

    def decode(self, y: Tensor, context: object) -> Tensor:
        """Return the mean of the visible units given the layer's output, each pooled unit spread over its window."""
        h = self.layer.spread(self.layer.pooled(y))
        if self.probabilistic:
            # At most one unit of a window is on, so each has its share of the probability.
            h = h / self.layer.pool_stride**2
        return self.rbm.visible_mean(h)

    @torch.no_grad()
    def sample(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Return the visible units after so many Gibbs steps from `x`; the last step takes their means."""
        rbm = self.rbm
        for _ in range(steps - 1):
            x = rbm.gibbs_step(x, generator)
        received = rbm.hidden_input(x)
        return rbm.visible_mean(rbm.sample_hidden(received, generator) if steps else rbm.hidden_mean(received))
