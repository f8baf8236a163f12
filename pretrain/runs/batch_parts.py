"""The part of a batch that a data-parallel process computes, with the draws and the statistics of the whole batch.

Each of several processes computes a part of every batch, and the gradients of the parts are averaged. So that the
result is the one of a single process, what is drawn at random is drawn for the whole batch, and each process takes its
part; and what is not a mean over images is computed from the parts of all processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from pretrain.runs.seeding import derive_seed


@dataclass(frozen=True)
class BatchPart:
    """One of the equal parts of a batch; the whole, where there is a single process.

    Attributes
    ----------
    rank : int
        Number of the process, counted from 0: it has the part of this number.
    count : int
        Number of processes, which is that of the parts.
    """

    rank: int = 0
    count: int = 1

    def take(self, whole: Tensor, dim: int = 0) -> Tensor:
        """Return this process's part of a tensor that every process has, a view; `dim` is the one of the images."""
        size = whole.shape[dim] // self.count
        return whole.narrow(dim, self.rank * size, size)

    def gather(self, x: Tensor) -> Tensor:
        """Return the parts of all processes in their order, (n, ...) -> (count * n, ...); gradients pass through."""
        return x if self.count == 1 else _Gather.apply(x, self)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes: of means of the parts, that of the whole batch."""
        return x if self.count == 1 else self.gather(x[None]).mean(dim=0)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        return x if self.count == 1 else self.gather(x[None]).sum(dim=0)

    def generator(self, seed: int, *names: str | int, device: torch.device | str = "cpu") -> "PartGenerator":
        """Return a new generator for the draw called `names`, in the same state in every process."""
        made = PartGenerator(device=device)
        made.manual_seed(derive_seed(seed, *names))
        made.part = self
        return made


WHOLE = BatchPart()


class PartGenerator(torch.Generator):
    """A random generator that knows which part of a batch its process computes."""

    part: BatchPart = WHOLE


class _Gather(torch.autograd.Function):
    """Gather parts. Each loss depends on the parts of all processes, so a part gets the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: BatchPart) -> Tensor:
        ctx.part = part
        whole = x.new_zeros(part.count * len(x), *x.shape[1:])
        part.take(whole).copy_(x)
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return ctx.part.take(total), None


def part_of(generator: torch.Generator) -> BatchPart:
    """Return the part of a batch that the draws of a generator are for: the whole, unless it says otherwise."""
    return generator.part if isinstance(generator, PartGenerator) else WHOLE


def drawn(
    draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int], generator: torch.Generator, dim: int = 0
) -> Tensor:
    """Draw for the whole batch, and return this process's part.

    Parameters
    ----------
    draw : callable
        Takes a shape and returns what it draws by `generator`.
    shape : sequence of int
        Shape of the part.
    generator : torch.Generator
        Knows the part, if it is not the whole.
    dim : int
        The dimension of the images.
    """
    part = part_of(generator)
    whole = [size * part.count if k == dim else size for k, size in enumerate(shape)]
    return part.take(draw(whole), dim)


def empty_like_part(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty tensor of a shape, (N, ...), whose images lie in memory as those of `x`, (n, ...), do."""
    if len(x) == shape[0]:
        return torch.empty_like(x, dtype=dtype)
    _, *strides = torch.empty_like(x, device="meta").stride()
    return torch.empty_strided(shape, (x[0].numel(), *strides), dtype=dtype or x.dtype, device=x.device)
