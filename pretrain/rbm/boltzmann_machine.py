"""The convolutional restricted Boltzmann machine (RBM) as a value: its parameters, and the equations that they define.

Its energy is ``E(v, h) = visible energy(v) - sum h x(v)``, where the hidden units receive ``x(v) = W * v + b``: a valid
convolution, unless padded with zeros. A pixel at an edge is seen by fewer hidden units than one inside, so the RBM says
less about it. Filters as large as the image make a dense RBM.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pretrain.network.autocast import product_dtype
from pretrain.network.probabilistic_pooling import pooled_free_energy, pooled_mean, sample_pooled
from pretrain.rbm.energy import bernoulli_free_energy, rectified_free_energy, rectified_mean
from pretrain.rbm.products import towards_hidden, towards_visible, weight_product
from pretrain.rbm.unit_sampling import sample_bernoulli, sample_rectified
from pretrain.rbm.visible_units import BinaryUnits, GaussianUnits, weighted_sum


def _joined(batches: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the images of all batches, (sum of N, ...), converted while they are copied, which saves a pass."""
    sizes = [len(batch) for batch in batches]
    shape, device = (sum(sizes), *batches[0].shape[1:]), batches[0].device
    joined = torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)
    for part, batch in zip(joined.split(sizes), batches, strict=True):
        part.copy_(batch)
    return joined


@dataclass(frozen=True)
class RBM:
    """A convolutional restricted Boltzmann machine.

    Attributes
    ----------
    weight : Tensor, (K, C, F, F)
        W, the filters.
    hidden_bias : Tensor, (K,)
        b, one for each map.
    visible : GaussianUnits or BinaryUnits
        The visible units.
    hidden : {"bernoulli", "rectified"}
        0 or 1; or noisy rectified linear (Nair and Hinton 2010).
    block : int
        Side of the blocks of Bernoulli hidden units of which at most one is on: probabilistic max-pooling (Lee et al.
        2009). With 1 the units are independent.
    padding : int
        Zeros around the image.

    References
    ----------
    Lee, Grosse, Ranganath and Ng (2009), Convolutional deep belief networks, ICML, section 3.
    """

    weight: Tensor
    hidden_bias: Tensor
    visible: GaussianUnits | BinaryUnits
    hidden: str = "bernoulli"
    block: int = 1
    padding: int = 0

    @cached_property
    def _product_weight(self) -> Tensor:
        """The filters in the type of products, to which they are converted once, (K, C, F, F)."""
        return self.weight.to(product_dtype(self.weight))

    def hidden_input(self, v: Tensor) -> Tensor:
        """Return x(v) = W * v + b: (N, C, H, W) -> (N, K, H', W'), float32 at least."""
        # Under bfloat16 autocast the product alone has 8 bits: a bias or probability so rounded would shift all draws.
        received = towards_hidden(v.to(self._product_weight.dtype), self._product_weight, self.padding)
        received = received.to(self.hidden_bias.dtype)
        return received.add_(self.hidden_bias[:, None, None])

    def hidden_mean(self, x: Tensor) -> Tensor:
        """Return the mean of the hidden units given what they receive, of the same shape."""
        if self.hidden == "rectified":
            return rectified_mean(x)
        return x.sigmoid() if self.block == 1 else pooled_mean(x, self.block)

    def sample_hidden(self, x: Tensor, generator: torch.Generator, mean: Tensor | None = None) -> Tensor:
        """Draw the hidden units given what they receive, of the same shape; `mean` is `hidden_mean(x)`, if known."""
        if self.hidden == "rectified":
            return sample_rectified(x, generator)
        mean = self.hidden_mean(x) if mean is None else mean
        if self.block == 1:
            return sample_bernoulli(mean, generator)
        return sample_pooled(mean, self.block, generator)

    def field(self, h: Tensor) -> Tensor:
        """Return what the visible units receive, W~ * h, the transpose of the convolution: (N, C, H, W)."""
        received = towards_visible(h.to(self._product_weight.dtype), self._product_weight, self.padding)
        return received.to(self.visible.bias.dtype)

    def visible_mean(self, h: Tensor) -> Tensor:
        """Return the mean of the visible units given the hidden ones: (N, K, H', W') -> (N, C, H, W)."""
        return self.visible.mean(self.field(h))

    def sample_visible(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the visible units given the hidden ones: (N, K, H', W') -> (N, C, H, W)."""
        return self.visible.sample(self.field(h), generator)

    def gibbs_step(self, v: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the hidden units given `v`, and the visible ones given these: (N, C, H, W).

        References
        ----------
        Hinton (2010), A practical guide to training restricted Boltzmann machines, section 2.
        """
        return self.sample_visible(self.sample_hidden(self.hidden_input(v), generator), generator)

    def hidden_free_energy(self, x: Tensor) -> Tensor:
        """Return -log of the sum over hidden states of exp(h x), given x, (N, K, H', W') -> (N,)."""
        if self.hidden == "rectified":
            return rectified_free_energy(x)
        return bernoulli_free_energy(x) if self.block == 1 else pooled_free_energy(x, self.block)

    def free_energy(self, v: Tensor, x: Tensor | None = None) -> Tensor:
        """Return F(v) = -log sum_h exp(-E(v, h)), in nats: (N, C, H, W) -> (N,); `x` is `hidden_input(v)`, if known.

        References
        ----------
        Hinton (2010), A practical guide to training restricted Boltzmann machines, equation 25.
        """
        return self.visible.energy(v) + self.hidden_free_energy(self.hidden_input(v) if x is None else x)

    def gradient(self, *batches: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the derivatives of the weighted sum of the energies E(v, h) with respect to each parameter.

        With the means of the hidden units for `h` it is the derivative of the free energies; with weights 1/N for data
        and -1/M for draws from the model, that of minus the mean log-likelihood.

        Parameters
        ----------
        *batches : tuple of Tensor, (N, C, H, W), (N, K, H', W'), (N,)
            Visible units, hidden units, and the weight of each image, of any sign.

        Returns
        -------
        dict of str to Tensor
            "weight", "hidden_bias", "visible_bias" and, for Gaussian units, "log_variance".

        References
        ----------
        Hinton (2002), Training products of experts by minimizing contrastive divergence, Neural Computation 14,
        equation 5.
        """
        # All batches share one product. The products of the data and of the model are nearly the same, and under
        # autocast bfloat16 would round each by more than they differ.
        dtype = self._product_weight.dtype
        v = _joined([-weights[:, None, None, None] * v for v, _, weights in batches], dtype)
        h = _joined([h for _, h, _ in batches], dtype)
        visible = [self.visible.gradient(v, weights) for v, _, weights in batches]
        return {
            "weight": weight_product(v, h, self.weight.shape, self.padding).to(self.weight.dtype),
            "hidden_bias": -sum((weighted_sum(h, weights) for _, h, weights in batches), 0 * self.hidden_bias),
            **{name: sum((g[name] for g in visible), 0 * self.visible.bias) for name in visible[0]},
        }

    def tempered(self, beta: float) -> "RBM":
        """Return the RBM at inverse temperature `beta`, from 0 (visible units alone) to 1 (itself).

        What the hidden units receive is multiplied by `beta`.

        References
        ----------
        Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks, ICML, equation 16, with
        the visible biases of the RBM itself in the base-rate model.
        """
        return replace(self, weight=beta * self.weight, hidden_bias=beta * self.hidden_bias)
