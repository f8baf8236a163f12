"""Sharing batches among data-parallel processes, so that they learn what a single process would."""

from collections.abc import Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.runs.batch_parts import BatchPart
from pretrain.runs.profiling import timed


def equal_part(fabric: Fabric, sizes: Mapping[str, int]) -> BatchPart:
    """Return the part of each batch that this process computes.

    All parts have the same size, so that the mean over the parts is the mean over the batch.

    Parameters
    ----------
    fabric : Fabric
        The processes.
    sizes : mapping of str to int
        What is shared out, by the names of the settings: the size of the batch, for example.

    Raises
    ------
    UserError
        When a size is no multiple of the number of processes.
    """
    count = fabric.world_size
    for name, size in sizes.items():
        if size % count:
            raise UserError(
                f"{name}={size} cannot be shared out equally among device.devices={count} processes: give a multiple "
                f"of {count}."
            )
    return BatchPart(fabric.global_rank, count)


def average_gradients(module: nn.Module, fabric: Fabric) -> None:
    """Replace each gradient by its mean over all processes."""
    if fabric.world_size == 1:
        return
    with timed("exchange"):
        for parameter in module.parameters():
            if parameter.grad is not None:
                mean = fabric.all_reduce(parameter.grad, reduce_op="mean")
                assert isinstance(mean, Tensor)
                parameter.grad.copy_(mean)


def average_metrics(metrics: Mapping[str, float], signal: int, fabric: Fabric) -> tuple[Mapping[str, float], int]:
    """Return the means of metrics over all processes, and the signal to end that any of them has received; 0: none."""
    if fabric.world_size == 1:
        return metrics, signal
    with timed("exchange"):
        own = torch.tensor([[*metrics.values(), signal]], dtype=torch.float64, device=fabric.device)
        everyones = BatchPart(fabric.global_rank, fabric.world_size).gather(own)  # (processes, metrics + 1)
    return dict(zip(metrics, everyones.mean(dim=0).tolist(), strict=False)), int(everyones[:, -1].max())
