"""Where a run computes: device, precision and processes, through Lightning Fabric."""

import ctypes
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from pretrain.errors import UserError, choose, require_between
from pretrain.runs.settings import Config, typed

T = TypeVar("T")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass
class Device:
    """Where to compute, and in which precision.

    Attributes
    ----------
    accelerator : str
        "auto" (a GPU where there is one), "cpu", "cuda" or "mps".
    devices : int
        Processes, each on a device of its own; every batch is shared out among them.
    precision : str
        "32-true", or "bf16-mixed" for bfloat16 autocast; "auto" takes the latter where the hardware multiplies
        bfloat16. Weights are float32 in any case.
    threads : int, optional
        Threads of each process on the CPU; None leaves torch's choice.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "auto"
    threads: int | None = None

    def launch(self) -> Fabric:
        """Start the processes and return the Fabric that they share.

        Raises
        ------
        UserError
            When this machine lacks what is asked for.
        """
        choose("device.precision", self.precision, ("auto", *PRECISIONS))
        require_between("device.devices", self.devices, 1)
        if self.threads is not None:
            require_between("device.threads", self.threads, 1)
            torch.set_num_threads(self.threads)
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision each time
        try:
            # Only a name of a backend of several processes makes Fabric start them on a CPU.
            strategy = "ddp" if self.devices > 1 else "auto"
            probe = Fabric(accelerator=self.accelerator, devices=self.devices, strategy=strategy)
            precision = best_precision(probe.device) if self.precision == "auto" else self.precision
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                strategy=strategy,
                precision=precision,  # type: ignore[arg-type]  # Fabric checks the name
            )
            fabric.launch()
        except (ValueError, RuntimeError, MisconfigurationException) as error:
            raise UserError(
                f"device.accelerator={self.accelerator} devices={self.devices} precision={self.precision} "
                f"cannot be had here: {error}".splitlines()[0]
            ) from None
        return fabric


def keep_freed_memory() -> None:
    """Let the GNU C library keep what a step frees for the next one; elsewhere do nothing.

    It hands blocks of a few MiB and more, which activations are, back to the kernel, which has to fill them with zeros
    when they are wanted again: on a CPU that can take longer than the computation. For a process that does nothing but
    train, such as the commands, since peaks of memory are not given back either.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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


def device_settings(config: Config) -> Device:
    """Return the device that conf/base.yaml describes."""
    return typed(Device, config, "device")
