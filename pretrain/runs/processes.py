"""The processes of a run, through Lightning Fabric: their start, their device and precision, and who goes first."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from pretrain.errors import UserError

T = TypeVar("T")


def launch_fabric(accelerator: str, devices: int, precision: str, threads: int | None) -> Fabric:
    """Start the processes and return the Fabric that they share; the parameters are the settings of `Device`.

    Raises
    ------
    UserError
        When this machine lacks what is asked for.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision each time
    try:
        # Only a name of a backend of several processes makes Fabric start them on a CPU.
        strategy = "ddp" if devices > 1 else "auto"
        found = Fabric(accelerator=accelerator, devices=devices, strategy=strategy)
        chosen = best_precision(found.device) if precision == "auto" else precision
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            precision=chosen,  # type: ignore[arg-type]  # Fabric checks the name
        )
        fabric.launch()
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(
            f"device.accelerator={accelerator} devices={devices} precision={precision} "
            f"cannot be had here: {error}".splitlines()[0]
        ) from None
    return fabric


def first_then_others(fabric: Fabric, function: Callable[[], T]) -> T:
    """Call a function in the first process, then in the others: for what writes files that the others read.

    Raises
    ------
    UserError
        In every process, when the first one raises it, or an OSError.
    """
    mistake, result = None, None
    if fabric.global_rank == 0:
        try:
            result = function()
        except (UserError, OSError) as error:  # such as a full disk
            mistake = str(error)
    if mistake := fabric.broadcast(mistake):
        raise UserError(mistake)
    return function() if fabric.global_rank else result  # type: ignore[return-value]


def precision_of(fabric: Fabric) -> str:
    """Return the precision that a launched Fabric computes in: one of `PRECISIONS`."""
    return str(fabric.strategy.precision.precision)


def best_precision(device: torch.device) -> str:
    """Return "bf16-mixed" where `device` multiplies bfloat16 in hardware, else "32-true"."""
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # private, so it may go away
        return "bf16-mixed" if supported() else "32-true"
    return "32-true"
