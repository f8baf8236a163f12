"""Numerical against analytic gradients, by central differences in float64."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.network.convnet import ConvNet
from pretrain.rbm.exact import log_partition, visible_states
from pretrain.runs.seeding import generator
from pretrain.stages.base import Stage
from pretrain.stages.conv_rbm import ConvRBM
from pretrain.stages.corruption import Corruption

ROUNDINGS = 5  # of the objective, each of half a unit of its last place and up, that a sum of many terms may add up to


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
        """|a - n|, less what rounding may account for, over max(|a|, |n|); as it is where both are below 1e-7."""
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
        Of each parameter, or all where it has fewer.
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


def check_stage(stage: Stage, x: Tensor, **options: int) -> list[GradientRow]:
    """Check a stage's objective, its corruption off, on inputs (N, C, H, W); no rows where it has none."""
    stage, objective = stage.double().eval(), stage.objective
    if objective is None:
        return []

    def compute() -> float:
        stage.zero_grad()
        return stage.accumulate_grad(x.double(), generator(0, "gradcheck"))[objective]

    return check_gradients(stage, compute, **options)


def check_likelihood(stage: ConvRBM, **options: int) -> list[GradientRow]:
    """Check the exact gradient of minus the mean log-likelihood, on a tiny machine with the units of the stage's.

    Expectations over the model are sums over all its states, of Gaussian visible units a quadrature; they take the
    place of the chains in the code that trains. The numerical side goes through log Z.

    Raises
    ------
    UserError
        When the hidden units are rectified, whose states cannot be gone through.
    """
    gaussian = stage.visible == "gaussian"
    # A quadrature over more than four units, or a mixture of many, would be too much.
    side, kernel_size = (2, 1 if stage.pooling == "probabilistic" else 2) if gaussian else (3, 2)
    shape = (1, side, side)
    tiny = stage.tiny(kernel_size).double()
    draw = generator(0, "gradcheck", "tiny")
    for parameter in tiny.parameters():
        nn.init.normal_(parameter, std=0.5, generator=draw)
    data = torch.randn(6, *shape, generator=draw, dtype=torch.float64)
    data = data if gaussian else (data > 0).double()

    @torch.no_grad()
    def compute() -> float:
        tiny.zero_grad()
        rbm = tiny.rbm
        states, p = visible_states(rbm, shape)
        weights = data.new_full((len(data),), 1 / len(data))
        batches = [(v, rbm.hidden_mean(rbm.hidden_input(v)), w) for v, w in ((data, weights), (states, -p))]
        tiny.write_gradient(rbm.gradient(*batches))
        return float(rbm.free_energy(data).mean() + log_partition(rbm, shape))

    return check_gradients(tiny, compute, **options)


def turned_off(modules: Iterable[nn.Module]) -> list[str]:
    """Name the sources of randomness among the parts of `modules`, which eval mode turns off."""
    names = ["augmentation"]
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, nn.Dropout):
            names.append(f"dropout ({part.p:g})")
        elif isinstance(part, Corruption) and part.kind != "none":
            names.append(f"corruption ({part.kind}, {part.level:g})")
    return list(dict.fromkeys(names))


def format_gradients(rows: list[GradientRow]) -> str:
    """Return the rows as a table."""
    if not rows:
        return "learns by a rule that is the gradient of nothing: there is nothing to check"
    lines = [f"{'parameter':32}{'dimension':>18}{'analytic':>15}{'numerical':>15}{'beyond rounding':>16}"]
    lines += [
        f"{row.parameter:32}{','.join(map(str, row.index)):>18}{row.analytic:15.6e}{row.numerical:15.6e}"
        f"{row.relative_error:16.1e}"
        for row in rows
    ]
    return "\n".join(lines)
