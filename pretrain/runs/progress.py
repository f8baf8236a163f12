"""How far a long piece of work has come: a bar in a terminal, plain lines elsewhere."""

import os
import sys
import time

from tqdm import tqdm


class Progress:
    """Shows steps done, speed, time left and a few figures, on standard error.

    Parameters
    ----------
    title : str
        What is being done.
    total : int
        Steps in all.
    initial : int
        Steps done before, by an interrupted run.
    unit : str
        What the speed counts.
    per_step : int
        Units a step.
    shown : bool
        False for all but the first of several processes.
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
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar; in plain lines, say how it ended if anything was said at all."""
        self.bar.close()
        if self.plain and self.last_line > self.started:
            self._line("")

    def update(self, done: int, figures: str = "") -> None:
        """Say that `done` steps are done, with figures to show beside."""
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
        print(
            f"{self.title}: {self.done}/{self.total}, {speed * self.per_step:.0f} {self.unit}/s, "
            f"{left:.0f} s left{', ' + figures if figures else ''}",
            file=sys.stderr,
            flush=True,
        )


def complain(line: str) -> None:
    """Print a line on standard error, once for all the data-parallel processes."""
    if is_first_process():
        print(line, file=sys.stderr)


def is_first_process() -> bool:
    """Say whether this is the first of the data-parallel processes, or the only one: Fabric numbers the others."""
    return not int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
