"""Comparison of analytic gradients with numerical ones, by central differences in float64."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.network.convnet import ConvNet
from pretrain.runs.seeding import generator
from pretrain.stages.base import Stage
from pretrain.stages.stack import Stack

# A sum of many terms may be off by so many rounding errors of the objective.
ROUNDINGS = 5


@dataclass(frozen=True)
class GradientRow:
    """One dimension of one parameter.

    Attributes
    ----------
    parameter : str
        Its name.
    index : tuple of int
        The dimension.
    analytic, numerical : float
        Its gradient, by the code that trains and by central differences.
    rounding : float
        How far the numerical one may be off because the objective is rounded to float64.
    """

    parameter: str
    index: tuple[int, ...]
    analytic: float
    numerical: float
    rounding: float = 0.0

    @property
    def relative_error(self) -> float:
        """|a - n|, minus what rounding may account for, over max(|a|, |n|); not divided where both are below 1e-7."""
        difference = max(0.0, abs(self.analytic - self.numerical) - self.rounding)
        greater = max(abs(self.analytic), abs(self.numerical))
        return difference / greater if greater >= 1e-7 else difference


def check_gradients(
    module: nn.Module,
    compute: Callable[[], float],
    *,
    dimensions: int = 5,
    seed: int = 0,
    step: float = 1e-6,
) -> list[GradientRow]:
    """Compare gradients on a few randomly chosen dimensions of each parameter.

    ``n = (f(w + h) - f(w - h)) / 2h``, whose error falls with the square of h until rounding takes over.

    Parameters
    ----------
    module : nn.Module
        In float64. Left as it is, but for its gradients.
    compute : callable
        Writes the gradients of the module's parameters and returns the objective. It must be a deterministic
        function of the parameters: with dropout, corruption or augmentation on, the estimate means nothing.
    dimensions : int
        How many of each parameter; all where it has fewer.
    seed : int
        Names the draw of the dimensions.
    step : float
        h.
    """
    module.zero_grad()
    compute()
    analytic = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    rows = []
    for name, parameter in module.named_parameters():
        if name not in analytic:
            continue
        chosen = torch.randperm(parameter.numel(), generator=generator(seed, "gradcheck", name))[:dimensions]
        for position in chosen.tolist():
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(position), parameter.shape))
            before = parameter.data[index].item()
            values = []
            for moved in (before + step, before - step):
                parameter.data[index] = moved
                values.append(compute())
            parameter.data[index] = before
            numerical = (values[0] - values[1]) / (2 * step)
            rounding = ROUNDINGS * torch.finfo(torch.float64).eps * abs(values[0]) / step
            rows.append(GradientRow(name, index, analytic[name][index].item(), numerical, rounding))
    return rows


def check_network(network: ConvNet, images: Tensor, labels: Tensor, **options: int) -> list[GradientRow]:
    """Check the cross-entropy of a network, its dropout off, on images (N, C, H, W) in [0, 1] of known class."""
    network = network.double().eval()

    def compute() -> float:
        network.zero_grad()
        loss = F.cross_entropy(network(images.double()), labels)
        loss.backward()
        return float(loss.detach())

    return check_gradients(network, compute, **options)


def check_stage(stage: Stage, x: Tensor, **options: int) -> dict[str, list[GradientRow]]:
    """Check what a stage has to be checked, on inputs (N, C, H, W): the rows of each of its objectives, by name.

    Where it has none, its own name stands without rows.
    """
    objectives = stage.double().eval().objectives(x.double())
    rows = {each.name: check_gradients(each.module, each.compute, **options) for each in objectives}
    return rows or {type(stage).__name__: []}


def check_network_and_stages(
    stack: Stack, network: ConvNet, images: Tensor, labels: Tensor, **options: int
) -> dict[str, list[GradientRow]]:
    """Check an assembled network, and each stage of its stack on the output of those below: rows by name.

    Parameters
    ----------
    stack : Stack
        Its stages.
    network : ConvNet
        Assembled from them.
    images : Tensor, (N, C, H, W), float64 in [0, 1]
    labels : Tensor, (N,)
        Their classes.
    **options
        Those of `check_gradients`.
    """
    checks = {"network": check_network(network, images, labels, **options)}
    x = images
    for position, stage in enumerate(stack, 1):
        checks |= {f"stage {position}, {name}": rows for name, rows in check_stage(stage, x, **options).items()}
        with torch.no_grad():
            x = stage.layer(x)
    return checks


def turned_off(modules: Iterable[nn.Module]) -> list[str]:
    """Name the sources of randomness among the parts of `modules` that eval mode turns off."""
    names = ["augmentation"]
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, nn.Dropout):
            names.append(f"dropout ({part.p:g})")
        elif isinstance(part, Stage):
            names += part.randomness
    return list(dict.fromkeys(names))


def format_gradients(rows: list[GradientRow]) -> str:
    """Return the rows as a table."""
    if not rows:
        return "learns by a rule that is no gradient: there is nothing to check"
    lines = [f"{'parameter':32}{'dimension':>18}{'analytic':>15}{'numerical':>15}{'beyond rounding':>16}"]
    lines += [
        f"{row.parameter:32}{','.join(map(str, row.index)):>18}{row.analytic:15.6e}{row.numerical:15.6e}"
        f"{row.relative_error:16.1e}"
        for row in rows
    ]
    return "\n".join(lines)
