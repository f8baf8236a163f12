"""The likelihood of an RBM: pseudo-likelihood, and log Z by annealed importance sampling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.rbm.boltzmann_machine import RBM
from pretrain.rbm.visible_units import BinaryUnits


@torch.no_grad()
def pseudo_likelihood(rbm: RBM, v: Tensor, generator: torch.Generator) -> Tensor:
    """Estimate log prod_i p(v_i | the other visible units), in nats: (N, C, H, W) -> (N,).

    One unit of each image, drawn at random, stands for all n: the estimate is n log p(v_i | others), without bias, and
    ``p = sigmoid(F(v with v_i flipped) - F(v))``.

    Parameters
    ----------
    rbm : RBM
        An RBM with binary visible units.
    v : Tensor, (N, C, H, W)
        Low and high values. A value between them counts as a mean, and is mirrored about the middle.

    References
    ----------
    Hyvaerinen (2006), Consistency of pseudolikelihood estimation of fully visible Boltzmann machines, Neural
    Computation 18.
    """
    assert isinstance(rbm.visible, BinaryUnits), "the pseudo-likelihood of Gaussian units would be an integral"
    flat = v.flatten(1)
    chosen = torch.randint(flat.shape[1], (len(v), 1), generator=generator, device=v.device)
    ends = (rbm.visible.low + rbm.visible.high)[:, None, None].expand_as(v[0]).flatten()  # (C H W,)
    flipped = flat.scatter(1, chosen, ends[chosen] - flat.gather(1, chosen)).view_as(v)
    return flat.shape[1] * F.logsigmoid(rbm.free_energy(flipped) - rbm.free_energy(v))


@torch.no_grad()
def annealed_log_partition(
    rbm: RBM, shape: tuple[int, int, int], *, chains: int = 100, temperatures: int = 1000, generator: torch.Generator
) -> tuple[float, float]:
    """Estimate log Z by annealed importance sampling, with the standard error of the estimate.

    Chains go from the visible units alone, whose Z is known, to the RBM: the inputs of the hidden units grow in equal
    steps.

    Parameters
    ----------
    rbm : RBM
        The RBM.
    shape : tuple of int
        (C, H, W) of the visible units.
    chains, temperatures : int
        Number of chains, and of the steps that each takes: more steps make the weights more equal.
    generator : torch.Generator
        For every draw.

    Returns
    -------
    float, float
        log Z in nats, and its standard error (that of the mean weight, by the delta method).

    References
    ----------
    Neal (2001), Annealed importance sampling, Statistics and Computing 11; Salakhutdinov and Murray (2008), On the
    quantitative analysis of deep belief networks, ICML, section 4.1.
    """
    nothing = rbm.weight.new_zeros(chains, *shape)
    v = rbm.visible.sample(nothing, generator)
    log_z = rbm.visible.log_normalizer(nothing[:1]) - rbm.hidden_free_energy(0 * rbm.hidden_input(nothing[:1]))
    log_weights = rbm.weight.new_zeros(chains)
    for step in range(temperatures):
        x = rbm.hidden_input(v)
        before, beta = step / temperatures, (step + 1) / temperatures
        log_weights += rbm.hidden_free_energy(before * x) - rbm.hidden_free_energy(beta * x)
        h = rbm.sample_hidden(beta * x, generator)
        v = rbm.visible.sample(beta * rbm.field(h), generator)
    mean = log_weights.logsumexp(dim=0) - math.log(chains)
    relative = (log_weights - mean).exp()
    return float(log_z + mean), float(relative.std() / math.sqrt(chains))
