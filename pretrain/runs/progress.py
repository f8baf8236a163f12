"""Progress of long work: a bar in a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

from tqdm import tqdm


class Progress:
    """Shows the steps done, the speed, the time left and some figures on standard error.

    Parameters
    ----------
    title : str
        Name of the work.
    total : int
        Number of steps.
    initial : int
        Steps done by an interrupted run.
    unit : str
        Name of the units that the speed counts.
    per_step : int
        Units in each step.
    shown : bool
        Whether anything is shown; False for all but the first of several processes.
    """

    LINE_EVERY = 10.0  # seconds between plain lines

    def __init__(
        self,
        title: str,
        total: int,
        *,
        initial: int = 0,
        unit: str = "steps",
        per_step: int = 1,
        shown: bool = True,
    ):
        self.title, self.total, self.initial, self.unit, self.per_step = title, total, initial, unit, per_step
        self.plain = shown and not sys.stderr.isatty()
        self.bar = tqdm(
            desc=title,
            total=total * per_step,
            initial=initial * per_step,
            unit=f" {unit}",
            unit_scale=True,
            disable=not shown or self.plain,
            dynamic_ncols=True,
        )
        self.started = self.last_line = time.monotonic()
        self.done = initial

    def __enter__(self) -> "Progress":
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar, or print a last line if there were others."""
        self.bar.close()
        if self.plain and self.last_line > self.started:
            self._line("")

    def update(self, done: int, figures: str = "") -> None:
        """Show that `done` steps are done, with figures beside."""
        self.bar.update((done - self.done) * self.per_step)
        self.bar.set_postfix_str(figures, refresh=False)
        self.done = done
        if self.plain and time.monotonic() - self.last_line >= self.LINE_EVERY:
            self.last_line = time.monotonic()
            self._line(figures)

    def _line(self, figures: str) -> None:
        seconds = time.monotonic() - self.started
        speed = (self.done - self.initial) / max(seconds, 1e-9)
        left = (self.total - self.done) / max(speed, 1e-9)
        say(
            f"{self.title}: {self.done}/{self.total}, {speed * self.per_step:.0f} {self.unit}/s, "
            f"{left:.0f} s left{', ' + figures if figures else ''}"
        )


def complain(line: str) -> None:
    """Print a line on standard error, only in the first of the data-parallel processes."""
    if is_first_process():
        say(line)


def tell(lines: Iterable[str]) -> None:
    """Print lines on standard output, only in the first of the data-parallel processes."""
    if is_first_process():
        print("\n".join(lines))


def say(line: str) -> None:
    """Print a line on standard error, if anybody still reads it; work goes on where nobody does."""
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Return whether this is the first of the data-parallel processes, or the only one."""
    return not int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
