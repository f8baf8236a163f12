"""The device, precision, processes and threads of a run."""

import ctypes
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pretrain.runs.setting_types import In
from pretrain.runs.typed_settings import Resuming, Settings, setting

if TYPE_CHECKING:
    from lightning_fabric import Fabric

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt, from <malloc.h>
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
ACCELERATORS: tuple[str, ...] = get_args(Accelerator)
# More than a computer has would end the process without a word.
Crowd = Annotated[int, In(ge=1, le=1024)]


@dataclass(frozen=True)
class Device(Settings):
    """The device and precision to compute with.

    Attributes
    ----------
    accelerator : str
        "auto" (a GPU where there is one), "cpu", "cuda" or "mps".
    devices : int
        Number of data-parallel processes on all machines together, each on its own device; they divide every batch.
        The result is that of one process but for rounding.
    precision : str
        "32-true", "bf16-mixed" (bfloat16 autocast), or "auto": bf16-mixed if the hardware multiplies bfloat16, else
        32-true. Weights are always float32.
    threads : int, optional
        Threads of each process on the CPU; None keeps torch's default.
    """

    accelerator: Accelerator = setting("auto", resuming=Resuming.FREE)
    devices: Crowd = setting(1, resuming=Resuming.FREE)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    threads: Crowd | None = setting(None, resuming=Resuming.FREE)

    def launch(self) -> "Fabric":
        """Start the processes and return the Fabric that they share.

        Raises
        ------
        UserError
            When this computer does not have what the settings ask for.
        """
        # This import loads torch, which takes a while.
        from pretrain.runs.processes import launch_fabric

        return launch_fabric(self.accelerator, self.devices, self.precision, self.threads)


def keep_freed_memory() -> None:
    """Keep freed memory in the process for the next step, under the GNU C library.

    By default the library returns large blocks, such as activations, to the kernel, which zeroes them before their
    next use. On a CPU that can take longer than the computation. Only a process that does nothing but train should call
    this, since peaks of memory are not returned either.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
