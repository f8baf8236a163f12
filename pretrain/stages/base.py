"""What every kind of stage shares: the contract for training a layer of the ConvNet."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.data.contrastive_views import Views
from pretrain.errors import UserError
from pretrain.network.layer import Bounds, Layer

Metrics = Mapping[str, float]


def require_unit_range(setting: str, inputs: Tensor, advice: str) -> None:
    """Raise a `UserError` with `advice`, unless the inputs of a stage lie from 0 to 1 as its `setting` needs."""
    low, high = float(inputs.amin()), float(inputs.amax())
    if low < 0 or high > 1:
        raise UserError(f"{setting} needs inputs from 0 to 1, but they go from {low:.3g} to {high:.3g}: use {advice}.")


DEAD = 0.01  # of what a unit of the map does at most on the images: it answers to none of them


def activity(h: Tensor) -> Metrics:
    """Return how much a layer's units, (N, K, H, W), do: their mean, and the shares of dead and of saturated maps.

    A map is dead when none of its units exceeds `DEAD` of the greatest activation of the layer, and saturated when none
    falls below 1 - `DEAD` of it.
    """
    greatest = h.amax().clamp(min=1e-12)
    return {
        "hidden_mean": float(h.mean()),
        "dead": float((h.amax(dim=(0, 2, 3)) < DEAD * greatest).float().mean()),
        "saturated": float((h.amin(dim=(0, 2, 3)) > (1 - DEAD) * greatest).float().mean()),
    }


def not_finite(metrics: Metrics, learning_rate: float) -> str | None:
    """Say so when a metric is not a finite number any more, and which setting it is likely to be; else return None."""
    if all(math.isfinite(value) for value in metrics.values()):
        return None
    return f"not a finite number any more: lower learning_rate={learning_rate:g}"


class Stage(nn.Module, ABC):
    """One layer of the network with the machinery that trains it; the machinery is thrown away at the end.

    A subclass sets `layer` in its constructor, which takes `in_channels` and the keywords of its YAML.
    Whatever else it learns or remembers is a parameter or a buffer outside `layer`, so that a resumed run
    goes on exactly.

    Attributes
    ----------
    layer : Layer
        All that the ConvNet keeps: (N, C, H, W) -> (N, C', H', W'), deterministic.
    out_channels : int
        C'.
    monitor : str
        The metric that should fall while the stage trains.
    objective : str or None
        The metric whose gradient `accumulate_grad` writes in eval mode, where nothing is random; None where what it
        writes is a rule's update, and the gradient of nothing.
    data_parallel : bool
        Whether the mean of what parts of a batch give is what the whole gives, so that several processes can share it.
    views : Views or None
        How random views of the images are made. Then `accumulate_grad` gets two of each image, the first of all and
        then the second of all.
    """

    layer: Layer
    out_channels: int
    monitor: str = "loss"
    objective: str | None = "loss"
    data_parallel: bool = True
    views: Views | None = None

    def prepare(self, images: Tensor, bounds: Bounds, generator: torch.Generator) -> None:
        """Look at a sample of the inputs, (N, C, H, W), once before training; does nothing unless overridden.

        `bounds` are the least and the greatest value that each channel can take, (C,) twice.
        """

    @abstractmethod
    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Write the gradient of this stage's own parameters for one batch, and return scalar metrics.

        Parameters
        ----------
        x : Tensor, (N, C, H, W)
            What the layers below make of a batch of images. Not changed.
        generator : torch.Generator
            For every random draw of this step; on the device of `x`.
        """

    def finish(self, images: Tensor) -> None:
        """Look at a sample of the inputs, (N, C, H, W), once after training; does nothing unless overridden."""

    def constrain(self) -> None:
        """Put the parameters back where they may be, after each update; does nothing unless overridden."""

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return figures that tell how the stage is doing on inputs, (N, C, H, W), in eval mode."""
        h = self.layer.hidden(x).float()
        return {"weight_norm": float(self.layer.conv.weight.norm()), **activity(h)}

    def diagnose(self, metrics: Metrics, learning_rate: float) -> str | None:
        """Return a sentence on what is wrong, and which setting it is likely to be, when training has come to grief."""
        return not_finite(metrics, learning_rate)

    def encode(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the layer's output for `x`, and what `decode` needs besides it."""
        return self.layer(x), None

    def decode(self, y: Tensor, context: Any) -> Tensor:
        """Return a reconstruction of the input from the layer's output, where this kind of stage has one.

        Raises
        ------
        NotImplementedError
            When it has none; pictures of reconstructions are then left out.
        """
        raise NotImplementedError

    def sample(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Return inputs, (N, C, H, W), that the stage's model draws in so many steps of a chain from `x`.

        Raises
        ------
        NotImplementedError
            When it is no model of its inputs; pictures of samples are then left out.
        """
        raise NotImplementedError


class AutogradStage(Stage):
    """A stage that learns by differentiating a loss."""

    @abstractmethod
    def losses(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return scalars for one batch: "loss", which is differentiated, and others that are only shown."""

    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Differentiate "loss" and return all of `losses` as numbers."""
        losses = self.losses(x.detach(), generator)
        losses["loss"].backward()
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return all of `losses` beside what every stage tells."""
        losses = {name: float(value) for name, value in self.losses(x, generator).items()}
        return {**losses, **super().health(x, generator)}
