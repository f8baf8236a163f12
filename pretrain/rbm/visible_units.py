"""The two kinds of visible units: real-valued ones, and ones of two values."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.rbm.energy import bernoulli_energy, gaussian_energy
from pretrain.rbm.unit_sampling import sample_bernoulli
from pretrain.runs.batch_parts import drawn, empty_like_part


@dataclass(frozen=True)
class GaussianUnits:
    """Real-valued visible units, N(c + sigma^2 field, sigma^2) in each channel.

    Attributes
    ----------
    bias, log_variance : Tensor, (C,)
        c, and the logarithm of sigma^2.

    References
    ----------
    Cho, Ilin and Raiko (2011), Improved learning of Gaussian-Bernoulli RBMs, section 3.
    """

    bias: Tensor
    log_variance: Tensor

    def energy(self, v: Tensor) -> Tensor:
        """Return sum (v - c)^2 / (2 sigma^2): (N, C, H, W) -> (N,)."""
        return gaussian_energy(v, self.bias, self.log_variance)

    def mean(self, field: Tensor) -> Tensor:
        """Return the mean given the field W~ * h of the hidden units, (N, C, H, W)."""
        return self.bias[:, None, None] + self.gain[:, None, None] * field

    def sample(self, field: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the units given the field of the hidden ones, (N, C, H, W)."""
        mean = self.mean(field)
        noise = drawn(lambda shape: empty_like_part(mean, shape).normal_(generator=generator), mean.shape, generator)
        return mean + (0.5 * self.log_variance).exp()[:, None, None] * noise

    def log_normalizer(self, field: Tensor) -> Tensor:
        """Return log of the integral of exp(-energy(v) + v field) over v: (N, C, H, W) -> (N,)."""
        volume = 0.5 * (self.log_variance + math.log(2 * math.pi))[:, None, None]
        exponent = field * self.bias[:, None, None] + 0.5 * self.gain[:, None, None] * field.square()
        return (exponent + volume).sum(dim=(1, 2, 3))

    def gradient(self, v: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return the derivatives of the weighted sum of the energies of `v`, (N, C, H, W), `weights` (N,)."""
        deviation = v - self.bias[:, None, None]
        return {
            "visible_bias": -weighted_sum(deviation, weights) / self.gain,
            "log_variance": -0.5 * weighted_sum(deviation.square(), weights) / self.gain,
        }

    @property
    def gain(self) -> Tensor:
        """How much a field of one changes the mean, (C,): sigma^2."""
        return self.log_variance.exp()


@dataclass(frozen=True)
class BinaryUnits:
    """Bernoulli visible units, which take a low and a high value: 0 and 1 where inputs are not standardized.

    A value between the two counts as the mean of such a unit. A centered RBM has centered values, low < 0 < high
    (Montavon and Mueller 2012, Deep Boltzmann machines and the centering trick, section 3).

    Attributes
    ----------
    bias : Tensor, (C,)
        c, the logarithm of the odds of the high value where the field is zero.
    low, high : Tensor, (C,)
        The two values.
    """

    bias: Tensor
    low: Tensor
    high: Tensor

    def _on(self, v: Tensor) -> Tensor:
        """Return 0 for the low value and 1 for the high one."""
        return (v - self.low[:, None, None]) / self.gain[:, None, None]

    def _value(self, on: Tensor) -> Tensor:
        return self.low[:, None, None] + self.gain[:, None, None] * on

    def _log_odds(self, field: Tensor) -> Tensor:
        return self.bias[:, None, None] + self.gain[:, None, None] * field

    def energy(self, v: Tensor) -> Tensor:
        """Return -sum c on(v): (N, C, H, W) -> (N,)."""
        return bernoulli_energy(self._on(v), self.bias)

    def mean(self, field: Tensor) -> Tensor:
        """Return the mean given the field W~ * h of the hidden units, (N, C, H, W)."""
        return self._value(self._log_odds(field).sigmoid())

    def sample(self, field: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the units given the field of the hidden ones, (N, C, H, W)."""
        return self._value(sample_bernoulli(self._log_odds(field).sigmoid(), generator))

    def log_normalizer(self, field: Tensor) -> Tensor:
        """Return log of the sum of exp(-energy(v) + v field) over v: (N, C, H, W) -> (N,)."""
        return (self.low[:, None, None] * field + F.softplus(self._log_odds(field))).sum(dim=(1, 2, 3))

    def gradient(self, v: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return the derivatives of the weighted sum of the energies of `v`, (N, C, H, W), `weights` (N,)."""
        return {"visible_bias": -weighted_sum(self._on(v), weights)}

    @property
    def gain(self) -> Tensor:
        """How much a field of one changes the logarithm of the odds, (C,): high - low."""
        return self.high - self.low


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over images, weighted, and pixels: (N, C, H, W), (N,) -> (C,)."""
    return (x.sum(dim=(2, 3)) * weights[:, None]).sum(dim=0)
