"""Measuring where the time of a run goes: named ranges, and the split of the wall time into them."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch.profiler import record_function

Part = Literal[
    "decoding",
    "data",
    "forward",
    "backward",
    "gradient",
    "exchange",
    "optimizer",
    "logging",
    "checks",
    "preparation",
    "pictures",
    "tracing",
]
# What each part of a run is, in the order in which they are told.
PARTS: dict[str, str] = {
    "decoding": "loading the images",
    "data": "waiting for batches: reading, augmentation, the layers below",
    "forward": "forward pass and loss",
    "backward": "backward pass",
    "gradient": "forward and gradient in one, where a stage writes its own; else what is around both",
    "exchange": "averaging gradients, and waiting for the other processes",
    "optimizer": "updates of the weights",
    "logging": "log and progress",
    "checks": "health, diagnosis, validation, test, checkpoints",
    "preparation": "building, preparing and normalizing layers, fitting heads and probes",
    "pictures": "pictures of the run's folder",
    "tracing": "the profiler itself",
}
UNNAMED = "not accounted for"
_FREE = nullcontext()
LEAST_SHARE = 0.0005  # of the wall time; parts below it would be lines of zeros


class TimeSplit:
    """The seconds of each part of a run, which add up to the wall time.

    A range within another takes its time from it. Ranges also name events of a trace that is being recorded.

    Parameters
    ----------
    device : torch.device
        The device that is computed on. One that computes on its own is waited for at both ends of each range.

    Attributes
    ----------
    seconds : dict of str to float
        The seconds of each part, and of `UNNAMED` outside of all ranges.
    recording : bool
        Whether torch.profiler records a trace now. To name its events takes longer than to measure the ranges.
    """

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = defaultdict(float)
        self.recording = False
        self._waits = device.type != "cpu"
        self._within: str = UNNAMED
        self._since = time.perf_counter()

    @contextmanager
    def timed(self, name: Part) -> Iterator[None]:
        """Add the time of the block to a part, and not to the part of the range around it."""
        outer = self._within
        self._enter(name)
        try:
            with record_function(name) if self.recording else _FREE:
                yield
        finally:
            self._enter(outer)

    def _enter(self, name: str) -> None:
        if self._waits:
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds[self._within] += now - self._since
        self._within, self._since = name, now

    def lines(self, processes: int = 1) -> list[str]:
        """Return the split so far as lines of text: seconds, and percent of the wall time."""
        self._enter(self._within)
        wall = sum(self.seconds.values())
        whose = f" of the first of {processes} processes" if processes > 1 else ""
        told = {**PARTS, UNNAMED: ""}
        width = max(map(len, told))
        return [
            f"where the time{whose} went, {wall:.2f} s in all:",
            *(
                f"  {name:{width}}{seconds:10.2f} s{seconds / wall:7.1%}  {what}".rstrip()
                for name, what in told.items()
                if (seconds := self.seconds.get(name, 0.0)) >= LEAST_SHARE * wall
            ),
        ]


# A variable of the context: threads that read ahead do not see it, so only the thread of the run is measured.
_split: ContextVar[TimeSplit | None] = ContextVar("time split", default=None)


def timed(name: Part) -> AbstractContextManager[None]:
    """Return a range that adds the time of its block to a part of the run, if the run is profiled."""
    split = _split.get()
    return _FREE if split is None else split.timed(name)


def name_events(recording: bool) -> None:
    """Have the ranges name the events of a trace from now on, or not, if the run is profiled."""
    if split := _split.get():
        split.recording = recording


@contextmanager
def profiled(fabric: Fabric, wanted: bool = True) -> Iterator[TimeSplit | None]:
    """Measure the ranges within the block, if that is wanted, and print the split of its time in the first process.

    An interruption is told as well; an error speaks for itself.
    """
    if not wanted:
        yield None
        return
    split = TimeSplit(fabric.device)
    token = _split.set(split)
    try:
        yield split
    except KeyboardInterrupt:
        _tell(split, fabric)
        raise
    finally:
        _split.reset(token)
    _tell(split, fabric)


def _tell(split: TimeSplit, fabric: Fabric) -> None:
    if fabric.global_rank == 0:
        print("\n".join(split.lines(processes=fabric.world_size)))
