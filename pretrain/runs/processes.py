"""The data-parallel processes of a run, their devices and their precision, through Lightning Fabric."""

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException

from pretrain.errors import UserError, system_line
from pretrain.runs.parents import when_parent_ends

T = TypeVar("T")


def launch_fabric(accelerator: str, devices: int, precision: str, threads: int | None) -> Fabric:
    """Start the processes and return the Fabric that they share; the parameters are those of `Device`.

    Processes that torchrun has started are taken as they are, on one machine or on several.

    Raises
    ------
    UserError
        When this computer does not have what the settings ask for, or torchrun has started another number of processes.
    """
    environment, machines = _cluster(devices)
    if threads is not None:
        torch.set_num_threads(threads)
    # Below warnings, Fabric announces the precision at each launch.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        # On a CPU, Fabric starts several processes only if the strategy is named.
        strategy = "ddp" if devices > 1 else "auto"
        found = Fabric(accelerator=accelerator, devices=devices // machines, strategy=strategy)
        chosen = best_precision(found.device) if precision == "auto" else precision
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices // machines,
            num_nodes=machines,
            strategy=strategy,
            precision=chosen,  # type: ignore[arg-type]  # Fabric checks the name
            plugins=[environment],
        )
        fabric.launch()
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(
            f"device.accelerator={accelerator} devices={devices} precision={precision} "
            f"is not available here: {error}".splitlines()[0]
        ) from None
    if devices > 1 and fabric.local_rank and not TorchElasticEnvironment.detect():
        when_parent_ends(os.getppid(), _end)
    return fabric


def _cluster(devices: int) -> tuple[ClusterEnvironment, int]:
    """Return what starts the processes, torchrun or Fabric, and the number of machines that they are on.

    Raises
    ------
    UserError
        When torchrun has started another number of processes than `devices`.
    """
    if not TorchElasticEnvironment.detect():
        # Within a job of Slurm, Fabric would wait for processes that nobody starts.
        return LightningEnvironment(), 1
    started, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if started != devices:
        raise UserError(f"device.devices={devices}, but torchrun has started {started} processes: give {started}.")
    return TorchElasticEnvironment(), started // here


def _end() -> None:
    """End this process some seconds after the one that started it."""
    # What both were about to end, ends by itself.
    time.sleep(5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    # A process that waits for the others answers no signal.
    os._exit(1)


def first_then_others(fabric: Fabric, function: Callable[[], T]) -> T:
    """Call a function in the first process, which may write files, then in the others, which read them.

    Raises
    ------
    UserError
        In every process, when the first one raises a UserError or an OSError.
    """
    mistake, result = None, None
    if fabric.global_rank == 0:
        try:
            result = function()
        # An OSError may be a full disk.
        except (UserError, OSError) as error:
            mistake = system_line(error) if isinstance(error, OSError) else str(error)
    if mistake := fabric.broadcast(mistake):
        raise UserError(mistake)
    return function() if fabric.global_rank else result  # type: ignore[return-value]


def precision_of(fabric: Fabric) -> str:
    """Return the precision of a launched Fabric, one of `PRECISIONS`."""
    return str(fabric.strategy.precision.precision)


def best_precision(device: torch.device) -> str:
    """Return "bf16-mixed" where `device` multiplies bfloat16 in hardware, else "32-true"."""
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device.type == "cpu":
        # This function of torch is private, so a later version may not have it.
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
        return "bf16-mixed" if supported() else "32-true"
    return "32-true"
