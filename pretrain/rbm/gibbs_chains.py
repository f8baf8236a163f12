"""Gibbs chains for the model's side of the gradient of an RBM: CD-k, PCD and parallel tempering."""

from typing import Any

import torch
from torch import Tensor, nn

from pretrain.network.probabilistic_pooling import uniform_like
from pretrain.rbm.boltzmann_machine import RBM
from pretrain.runs.batch_parts import part_of


class ContrastiveDivergence(nn.Module):
    """Chains that start at the data and take k Gibbs steps, CD-k.

    Parameters
    ----------
    steps : int
        k.
    sample_last : bool
        Draw the visible units of the last step, which makes the gradient exact as k grows; or take their means, which
        carry less noise (Hinton 2010, section 3.2).

    References
    ----------
    Hinton (2002), Training products of experts by minimizing contrastive divergence, Neural Computation 14.
    """

    def __init__(self, steps: int, sample_last: bool):
        super().__init__()
        self.steps, self.sample_last = steps, sample_last
        # Its draw then is a reconstruction by means.
        self.reconstructs = steps == 1 and not sample_last

    def start(self, v: Tensor, generator: torch.Generator) -> None:
        """Do nothing: the chains are forgotten after each batch."""

    def draw(self, rbm: RBM, x: Tensor, mean: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return visible units, (N, C, H, W), of chains whose hidden units receive `x` at first, and no figures."""
        h = rbm.sample_hidden(x, generator, mean)
        for _ in range(self.steps - 1):
            h = rbm.sample_hidden(rbm.hidden_input(rbm.sample_visible(h, generator)), generator)
        return rbm.sample_visible(h, generator) if self.sample_last else rbm.visible_mean(h), {}


class PersistentChains(nn.Module):
    """Chains that go on from batch to batch, at one temperature (PCD) or at several (parallel tempering).

    With several temperatures, each chain of the RBM itself has others above it, at higher temperatures: their hidden
    units receive less and less, down to nothing. Neighbors exchange their states by Metropolis's rule.

    Parameters
    ----------
    steps : int
        Gibbs steps for each batch.
    chains : int
        Number of chains at each temperature.
    temperatures : int
        Number of temperatures; 1 for PCD.

    Notes
    -----
    Each of several processes moves an equal part of the chains, and all then hold the states of all.

    References
    ----------
    Tieleman (2008), Training restricted Boltzmann machines using approximations to the likelihood gradient, ICML; Cho,
    Raiko and Ilin (2010), Parallel tempering is efficient for learning restricted Boltzmann machines, IJCNN.
    """

    states: Tensor

    def __init__(self, steps: int, chains: int, temperatures: int = 1):
        super().__init__()
        self.steps, self.chains, self.reconstructs = steps, chains, False
        self.betas = [1 - t / max(1, temperatures - 1) for t in range(temperatures)]
        # The chains of the RBM itself come first.
        self.register_buffer("states", torch.empty(0))  # (temperatures * chains, C, H, W)

    def start(self, v: Tensor, generator: torch.Generator) -> None:
        """Begin at inputs, (N, C, H, W), drawn with replacement."""
        chosen = torch.randint(len(v), (len(self.betas) * self.chains,), generator=generator)
        self.states = v[chosen.to(v.device)].clone()

    @property
    def ladder(self) -> Tensor:
        """The states by temperature, (temperatures, chains, C, H, W), a view."""
        return self.states.unflatten(0, (len(self.betas), self.chains))

    def draw(self, rbm: RBM, x: Tensor, mean: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the visible units of the chains of the RBM itself, (chains, C, H, W), and how well these mix.

        "mixing" is 1 minus the correlation over chains of the visible units with those before the steps: chains that
        stand still have 0, chains that forget 1. "swaps" is the share of exchanges between temperatures that were made.
        """
        part, ladder = part_of(generator), self.ladder
        before = ladder[0].clone()
        states = part.take(ladder, dim=1)  # a view
        for position, beta in enumerate(self.betas):
            tempered = rbm if beta == 1 else rbm.tempered(beta)
            for _ in range(self.steps):
                states[position] = tempered.gibbs_step(states[position], generator)
        figures = {"swaps": self._exchange(rbm, states, generator)} if len(self.betas) > 1 else {}
        if part.count > 1:
            ladder.copy_(part.gather(states.transpose(0, 1)).transpose(0, 1))
        return states[0].clone(), {"mixing": 1 - correlation(before, ladder[0]), **figures}

    def _exchange(self, rbm: RBM, states: Tensor, generator: torch.Generator) -> float:
        """Exchange the states of neighbors, from the RBM itself upwards; return the share that changed."""
        x = torch.stack([rbm.hidden_input(v) for v in states])
        changed = []
        for low in range(len(self.betas) - 1):
            gain = log_exchange(rbm, x[low], x[low + 1], self.betas[low], self.betas[low + 1])  # (chains,)
            accepted = uniform_like(gain, generator).log() < gain
            for pair in (states[low : low + 2], x[low : low + 2]):
                pair[:, accepted] = pair[:, accepted].flip(0)
            changed.append(accepted.float().mean())
        return float(torch.stack(changed).mean())

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}states")
        if stored is not None:
            # The checkpoint knows the size of the images, which is known here only once training starts.
            self.states = torch.empty_like(stored, device=self.states.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def correlation(before: Tensor, after: Tensor) -> float:
    """Return the correlation over chains, (chains, ...), of each unit's values, all units together; 1 of constants."""
    a, b = (v - v.mean(dim=0) for v in (before, after))
    scale = float(a.square().sum().sqrt() * b.square().sum().sqrt())
    return float((a * b).sum()) / scale if scale > 0 else 1.0


def log_exchange(rbm: RBM, x: Tensor, other: Tensor, beta: float, beta_other: float) -> Tensor:
    """Return the logarithm of the odds with which two chains exchange their states: (N, K, H, W) twice -> (N,).

    The visible energies are the same at every temperature, so only the hidden part of the free energy counts.

    Parameters
    ----------
    rbm : RBM
        The RBM at inverse temperature 1.
    x, other : Tensor
        The inputs of its hidden units in the states at `beta` and at `beta_other`.

    References
    ----------
    Desjardins, Courville, Bengio, Vincent and Delalleau (2010), Tempered Markov chain Monte Carlo for training of
    restricted Boltzmann machines, AISTATS.
    """
    now = rbm.hidden_free_energy(beta * x) + rbm.hidden_free_energy(beta_other * other)
    exchanged = rbm.hidden_free_energy(beta * other) + rbm.hidden_free_energy(beta_other * x)
    return now - exchanged
