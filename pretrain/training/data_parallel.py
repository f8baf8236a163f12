"""Splitting batches among data-parallel processes, and averaging the gradients of the parts."""

from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.runs.profiling import timed


def share_out(positions: Tensor, fabric: Fabric) -> Tensor:
    """Return the part of a batch that this process computes.

    All parts have the same size, so that the mean over the parts is the mean over the batch.

    Raises
    ------
    UserError
        When the size of the batch is no multiple of the number of processes.
    """
    if len(positions) % fabric.world_size:
        raise UserError(
            f"batches of {len(positions)} images cannot be shared out equally among device.devices="
            f"{fabric.world_size} processes: give a batch_size that can."
        )
    return positions[fabric.global_rank :: fabric.world_size]


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
