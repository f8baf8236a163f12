"""Soft winner-take-all Hebbian learning, as a stage."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from pretrain.network.layer import Layer
from pretrain.runs.batch_parts import part_of
from pretrain.stages.base import Metric, Metrics, Stage
from pretrain.stages.kind_settings import SoftHebbSettings


class SoftHebb(Stage):
    """A layer whose maps compete at each position, and learn by a local Hebbian rule, without any error signal.

    With the inputs u = W * x of the maps and y = softmax(u / temperature) over them, a map's filter changes by
    ``s y (x - u w)``, summed over images and positions, where s is 1 for the map that wins a position and -1 for the
    others: the winner moves towards the patch, the others away from it. The sum is divided by its greatest element, and
    a filter's share of it is ``|1 - ||w|||^(1/2)``: filters of unit norm have converged.

    Parameters
    ----------
    layer : Layer
        Its activation is "triangle".
    **settings
        Those of `SoftHebbSettings`.

    Raises
    ------
    UserError
        When a setting is out of its range, or the layer's activation is another.

    References
    ----------
    Journe, Rodriguez, Guo and Moraitis (2023), Hebbian deep learning without feedback. ICLR.
    Moraitis, Toichkin, Journe, Chua and Guo (2022), SoftHebb: Bayesian inference in unsupervised Hebbian soft
    winner-take-all networks. Neuromorphic Computing and Engineering 2.
    """

    Settings = SoftHebbSettings
    description = "a soft winner-take-all Hebbian layer"
    metrics = (Metric("norm_gap", "distance of the filters' norms from 1"), *Stage.metrics)
    monitor = "norm_gap"
    objective = None

    def __init__(self, layer: Layer, **settings: Any):
        super().__init__(layer)
        own = SoftHebbSettings(**settings)
        own.check_layer(layer.settings)
        self.temperature = own.temperature
        fan_in = layer.settings.in_channels * layer.settings.kernel_size**2
        nn.init.normal_(layer.conv.weight, std=own.radius / fan_in**0.5)
        # The biases stay zero.
        nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Write minus the rule's change, and return two metrics.

        "norm_gap" is the mean of ``|1 - ||w|||``; "winner" the mean of y at the map that wins.
        """
        conv = self.layer.conv
        u = conv(x)
        y = (u.float() / self.temperature).softmax(dim=1)
        share, winner = y.max(dim=1, keepdim=True)
        y = (-y).scatter(1, winner, share).to(u.dtype)
        weight = conv.weight
        towards = conv2d_weight(x.to(u.dtype), weight.shape, y, conv.stride, self.layer.padding).float()
        decay = (y.float() * u.float()).sum(dim=(0, 2, 3))[:, None, None, None]
        change = part_of(generator).sum(towards - decay * weight)
        gap = self._norm_gaps()
        change = change / change.abs().max().clamp(min=1e-12) * gap.sqrt()[:, None, None, None]
        weight.grad = -change
        conv.bias.grad = torch.zeros_like(conv.bias)  # type: ignore[union-attr, arg-type]
        return {"norm_gap": float(gap.mean()), "winner": float(share.mean())}

    def _norm_gaps(self) -> Tensor:
        """Return how far each filter's norm is from 1, (K,)."""
        return (1 - self.layer.conv.weight.flatten(1).norm(dim=1)).abs()

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return how far the filters' norms are from 1 beside the figures of every stage."""
        return {"norm_gap": float(self._norm_gaps().mean()), **super().health(x, generator)}
