"""Exact quantities of tiny RBMs, by enumeration of all their states."""

import itertools
import math

import torch
import torch.nn.functional as F
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from pretrain.errors import UserError
from pretrain.rbm.boltzmann_machine import RBM
from pretrain.rbm.visible_units import GaussianUnits

ENUMERATED = 16  # the greatest number of hidden units whose states are enumerated
NODES = 20  # nodes of the quadrature over a Gaussian visible unit


def hidden_states(rbm: RBM, shape: tuple[int, int, int]) -> Tensor:
    """Return every state of the hidden units of a tiny RBM: (states, K, H', W').

    Raises
    ------
    UserError
        When there are too many, or the units are not Bernoulli.
    """
    volume = rbm.hidden_input(rbm.weight.new_zeros(1, *shape)).shape[1:]
    if rbm.hidden != "bernoulli" or volume.numel() > ENUMERATED:
        raise UserError(
            f"{volume.numel()} {rbm.hidden} hidden units: at most {ENUMERATED} Bernoulli ones can be enumerated."
        )
    h = _all_bits(volume.numel()).to(rbm.weight).view(-1, *volume)
    on = F.avg_pool2d(h, rbm.block, divisor_override=1)
    return h[(on <= 1).flatten(1).all(dim=1)] if rbm.block > 1 else h


def log_partition(rbm: RBM, shape: tuple[int, int, int]) -> Tensor:
    """Return log Z of a tiny RBM, a sum over every state of its hidden units; differentiable.

    References
    ----------
    Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks, ICML, section 2.
    """
    return _log_weights(rbm, hidden_states(rbm, shape)).logsumexp(dim=0)


def _log_weights(rbm: RBM, h: Tensor) -> Tensor:
    """Return the logarithm of the sum over visible states of exp(-E(v, h)), (states,)."""
    return (h * rbm.hidden_bias[:, None, None]).sum(dim=(1, 2, 3)) + rbm.visible.log_normalizer(rbm.field(h))


def visible_states(rbm: RBM, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return visible states of a tiny RBM, and their probabilities: an expectation is a weighted sum.

    Binary units have all their states; Gaussian ones the nodes of a Gauss-Hermite quadrature about the mean given each
    hidden state.

    Returns
    -------
    Tensor, (states, C, H, W), and Tensor, (states,)
        The states, and the probabilities or the weights of the quadrature, which sum to 1.
    """
    units = math.prod(shape)
    if isinstance(rbm.visible, GaussianUnits):
        nodes, weights = (torch.from_numpy(a).to(rbm.weight) for a in hermegauss(NODES))
        grid = torch.cartesian_prod(*[nodes] * units).view(-1, *shape)
        shares = torch.cartesian_prod(*[weights / weights.sum()] * units).view(-1, units).prod(dim=1)
        h = hidden_states(rbm, shape)
        p = _log_weights(rbm, h).softmax(dim=0)
        v = rbm.visible_mean(h)[:, None] + rbm.visible.gain.sqrt()[:, None, None] * grid
        return v.flatten(0, 1), (p[:, None] * shares).flatten()
    bits = _all_bits(units).to(rbm.weight).view(-1, *shape)
    v = rbm.visible.low[:, None, None] + rbm.visible.gain[:, None, None] * bits
    return v, (-rbm.free_energy(v)).softmax(dim=0)


def negative_log_likelihood(rbm: RBM, data: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Return minus the mean log-likelihood of data, (N, C, H, W), under a tiny RBM, and its gradient.

    In the gradient, expectations over the model are sums over all its states, or a quadrature for Gaussian visible
    units; they take the place of the chains in the code that trains. The value is computed from log Z.
    """
    shape = (data.shape[1], data.shape[2], data.shape[3])
    states, p = visible_states(rbm, shape)
    weights = data.new_full((len(data),), 1 / len(data))
    batches = [(v, rbm.hidden_mean(rbm.hidden_input(v)), w) for v, w in ((data, weights), (states, -p))]
    return float(rbm.free_energy(data).mean() + log_partition(rbm, shape)), rbm.gradient(*batches)


def _all_bits(count: int) -> Tensor:
    """Return the 2^count states of so many bits, (2^count, count)."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)))
