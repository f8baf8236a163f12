"""What every kind of stage shares: the contract for training a layer of the ConvNet."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pretrain.data.contrastive_views import Views
from pretrain.errors import UserError
from pretrain.network.layer import Bounds, Layer
from pretrain.runs.profiling import timed
from pretrain.runs.seeding import generator
from pretrain.stages.kind_settings import KindSettings

Metrics = Mapping[str, float]

# A map is dead when none of its units exceeds this share of the greatest activation of the layer.
DEAD = 0.01


@dataclass(frozen=True)
class Metric:
    """A figure of a stage's log, and how it is drawn.

    Attributes
    ----------
    key : str
        Its name in the log.
    panel : str
        Title of the panel that it is drawn in; metrics of one panel share it.
    label : str
        Name of its line in the legend.
    color : int
        Number of its line's color.
    held_out : bool
        Whether it makes sense on images that the stage does not learn from. Then it is measured on them as well, and
        logged as "held_out_" and the key.
    of_batches : bool
        Whether it is drawn from the batches that the stage learns from; otherwise from the sample that `Stage.health`
        is measured on.
    """

    key: str
    panel: str
    label: str = ""
    color: int = 0
    held_out: bool = False
    of_batches: bool = False


class Objective(NamedTuple):
    """A function of parameters whose gradient is checked numerically.

    Attributes
    ----------
    name : str
        How the gradient check calls it.
    module : nn.Module
        Holds the parameters.
    compute : callable
        Writes the gradients of the parameters and returns the value; deterministic.
    """

    name: str
    module: nn.Module
    compute: Callable[[], float]


def require_unit_range(setting: str, inputs: Tensor, advice: str) -> None:
    """Raise a `UserError` with `advice`, unless the inputs of a stage lie from 0 to 1 as its `setting` needs."""
    low, high = float(inputs.amin()), float(inputs.amax())
    if low < 0 or high > 1:
        raise UserError(f"{setting} needs inputs from 0 to 1, but they go from {low:.3g} to {high:.3g}: use {advice}.")


def activity(h: Tensor) -> Metrics:
    """Return the mean of a layer's units, (N, K, H, W), and the shares of dead and of saturated maps.

    A map is dead when none of its units exceeds `DEAD` times the greatest activation of the layer, and saturated when
    none falls below 1 - `DEAD` times it.
    """
    greatest = h.amax().clamp(min=1e-12)
    return {
        "hidden_mean": float(h.mean()),
        "dead": float((h.amax(dim=(0, 2, 3)) < DEAD * greatest).float().mean()),
        "saturated": float((h.amin(dim=(0, 2, 3)) > (1 - DEAD) * greatest).float().mean()),
    }


def not_finite(metrics: Metrics, learning_rate: float) -> str | None:
    """Return a phrase that names the likely setting when a metric is no longer a finite number; otherwise None."""
    if all(math.isfinite(value) for value in metrics.values()):
        return None
    return f"not a finite number any more: lower learning_rate={learning_rate:g}"


class Stage(nn.Module, ABC):
    """One layer of the network with the machinery that trains it; the machinery is thrown away at the end.

    A subclass takes the layer and the settings of its YAML, by keyword. Their types and ranges are those of its
    constructor, or of the class `Settings`, which is checked without importing torch. Whatever else it learns or
    remembers is a parameter or a buffer outside `layer`, so that a resumed run continues exactly.

    Parameters
    ----------
    layer : Layer
        All that the ConvNet keeps: (N, C, H, W) -> (N, C', H', W'), deterministic.

    Attributes
    ----------
    description : str
        The kind of stage in a phrase, such as "a convolutional autoencoder"; by default the name of the class.
    metrics : tuple of Metric
        The figures that are drawn, in the order of their panels. Others may be logged.
    monitor : str
        The metric that should fall while the stage trains.
    objective : str or None
        The metric whose gradient `accumulate_grad` writes in eval mode, where nothing is random. It is None where the
        update follows a rule that is no gradient.
    least_batch : int
        Fewest images that a batch may have.
    views : Views or None
        How random views of the images are made. If it is not None, `accumulate_grad` gets two views of each image, the
        first of all images and then the second of all.
    """

    Settings: ClassVar[type[KindSettings] | None] = None
    description: str = ""
    metrics: tuple[Metric, ...] = (
        Metric("hidden_mean", "hidden units", "mean", 0),
        Metric("dead", "hidden units", "dead maps", 1),
        Metric("saturated", "hidden units", "saturated maps", 3),
        Metric("weight_norm", "norm of the weights"),
        Metric("update_ratio", "update size, relative to the weights", of_batches=True),
    )
    monitor: str = "loss"
    objective: str | None = "loss"
    least_batch: int = 1
    views: Views | None = None

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer

    def __init_subclass__(cls, **options: Any) -> None:
        """Describe a kind without a description by its name, and list the keywords that it takes."""
        super().__init_subclass__(**options)
        if cls.Settings:
            keywords = inspect.signature(cls.Settings).parameters.values()
            layer = inspect.Parameter("layer", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Layer)
            own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in keywords]
            cls.__signature__ = inspect.Signature([layer, *own])  # type: ignore[attr-defined]
        cls.description = cls.description if "description" in vars(cls) else cls.__name__

    @property
    def out_channels(self) -> int:
        """Number of maps that the layer puts out, C'."""
        return self.layer.settings.out_channels

    @property
    def shared_out(self) -> Mapping[str, int]:
        """Settings, besides the batch size, whose number several processes share out equally."""
        return {}

    @property
    def randomness(self) -> list[str]:
        """The sources of randomness in training that eval mode turns off, as the gradient check names them."""
        return []

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
            The output of the layers below for a batch of images, or for a part of it where several processes share
            the batch. Not changed.
        generator : torch.Generator
            For every random draw of this step; on the device of `x`. ``part_of(generator)`` says which part of the
            batch `x` is. The gradients of the parts are averaged, which is enough for means over images. For what is
            none, such as statistics that a product takes, and for draws, see `pretrain.runs.batch_parts`.
        """

    def finish(self, images: Tensor) -> None:
        """Look at a sample of the inputs, (N, C, H, W), once after training; does nothing unless overridden."""

    def constrain(self) -> None:
        """Bring the parameters back into their range after each update; does nothing unless overridden."""

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return figures that tell how the stage is doing on inputs, (N, C, H, W), in eval mode."""
        h = self.layer.hidden(x).float()
        return {"weight_norm": float(self.layer.conv.weight.norm()), **activity(h)}

    def held_out_health(self, learned: Metrics, held_out: Metrics) -> Metrics:
        """Return figures that tell learning from memorizing.

        Parameters
        ----------
        learned, held_out : mapping of str to float
            The `health` on images that the stage learns from, and on images that it does not.
        """
        keys = [metric.key for metric in self.metrics if metric.held_out and metric.key in held_out]
        return {f"held_out_{key}": held_out[key] for key in keys}

    def diagnose(self, metrics: Metrics, learning_rate: float) -> str | None:
        """Diagnose a failed run by its metrics and name the setting most likely at fault; None if it has not failed."""
        return not_finite(metrics, learning_rate)

    def objectives(self, x: Tensor) -> list[Objective]:
        """Return the functions whose gradients are to be checked, on inputs (N, C, H, W); none of a rule.

        The stage is in eval mode and, like `x`, in float64.
        """
        if self.objective is None:
            return []
        objective = self.objective

        def compute() -> float:
            self.zero_grad()
            return self.accumulate_grad(x, generator(0, "gradcheck"))[objective]

        return [Objective(type(self).__name__, self, compute)]

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

    metrics = (Metric("loss", "loss", of_batches=True), *Stage.metrics)

    @abstractmethod
    def losses(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return scalars for one batch: "loss", which is differentiated, and others that are only shown."""

    def accumulate_grad(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Differentiate "loss" and return all of `losses` as numbers."""
        with timed("forward"):
            losses = self.losses(x.detach(), generator)
        with timed("backward"):
            losses["loss"].backward()
            figures = {name: float(value.detach()) for name, value in losses.items()}
            # To free the graph takes its time as well.
            del losses
            return figures

    @torch.no_grad()
    def health(self, x: Tensor, generator: torch.Generator) -> Metrics:
        """Return all of `losses` beside the figures of every stage."""
        losses = {name: float(value) for name, value in self.losses(x, generator).items()}
        return {**losses, **super().health(x, generator)}
