"""The settings of a comparison's workers on Slurm."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pretrain.runs.device import Crowd
from pretrain.runs.setting_types import FromZero, In
from pretrain.runs.typed_settings import Resuming, Settings, setting


@dataclass(frozen=True, kw_only=True)
class Slurm(Settings):
    """Workers of a comparison on Slurm, through submitit. None of these settings changes what is computed.

    Attributes
    ----------
    workers : int
        Number of jobs that share the comparison; with 0, the command works itself.
    partition, account : str, optional
        As sbatch takes them; None for the cluster's defaults.
    hours : float
        Time limit of a worker, which is then submitted again and goes on.
    resubmissions : int
        How often a worker is submitted again, at most.
    cpus, gpus : int
        Cores and GPUs of each worker.
    memory : float, optional
        Memory of each worker in GB; None for the cluster's default.
    options : dict
        Other options of sbatch by their names, such as ``{"qos": "long"}``.
    """

    workers: Annotated[int, In(ge=0, le=1024)] = setting(0, resuming=Resuming.FREE)
    partition: str | None = setting(None, resuming=Resuming.FREE)
    account: str | None = setting(None, resuming=Resuming.FREE)
    hours: Annotated[float, In(gt=0, le=8760)] = setting(4.0, resuming=Resuming.FREE)
    resubmissions: FromZero = setting(20, resuming=Resuming.FREE)
    cpus: Crowd = setting(1, resuming=Resuming.FREE)
    gpus: Annotated[int, In(ge=0, le=1024)] = setting(0, resuming=Resuming.FREE)
    memory: Annotated[float, In(gt=0)] | None = setting(None, resuming=Resuming.FREE)
    options: dict[str, Any] = setting(factory=dict, resuming=Resuming.FREE)

    def contradictions(self) -> Iterator[str]:
        """Yield a line for each option of sbatch that is no plain value."""
        for name, value in self.options.items():
            if isinstance(value, dict | list):
                yield f"options.{name}: give one value, as sbatch takes it."
