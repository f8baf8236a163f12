"""Where a run computes: device, precision, processes and threads."""

import ctypes
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.errors import choose, require_between
from pretrain.runs.settings import Resuming, setting

if TYPE_CHECKING:
    from lightning_fabric import Fabric

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
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

    accelerator: str = setting("auto", resuming=Resuming.FREE)
    devices: int = 1
    precision: str = "auto"
    threads: int | None = setting(None, resuming=Resuming.FREE)

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        choose("device.precision", self.precision, ("auto", *PRECISIONS))
        require_between("device.devices", self.devices, 1)
        if self.threads is not None:
            require_between("device.threads", self.threads, 1)

    def launch(self) -> "Fabric":
        """Start the processes and return the Fabric that they share.

        Raises
        ------
        UserError
            When this machine lacks what is asked for.
        """
        from pretrain.runs.processes import launch_fabric  # it imports torch, which takes a while

        return launch_fabric(self.accelerator, self.devices, self.precision, self.threads)


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
