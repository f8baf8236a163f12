"""Signals that end a process: a training loop saves its state first, and everything else stops at once."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; the end of a cluster's time limit; a closed terminal. Not every system has all of them.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interruption(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes
    ----------
    status : int
        Exit status by which a shell names the signal: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, received: int):
        super().__init__(signal.Signals(received).name)
        self.status = 128 + received


class _Pending:
    """What the handler shares with the training loop: whether signals wait, all of them or the first, and that one.

    Where processes work together, a signal that one of them has heard is received once all of them know of it.
    """

    deferred = False
    patient = False
    together = False
    heard = 0
    received = 0


@contextmanager
def signals_end_the_process(signals: Iterable[int] = ENDING, *, patient: bool = False) -> Iterator[None]:
    """Raise an `Interruption` in the block at each of the signals, except those that the process ignores.

    Parameters
    ----------
    signals : iterable of int
        Numbers of the signals.
    patient : bool
        Whether a second signal waits as the first one does, where signals are deferred: a worker gets one from the
        system, and one from the process that started it.
    """
    # Python handles signals in the main thread alone, and nohup has a process ignore some.
    alone = threading.current_thread() is threading.main_thread()
    answered = [each for each in signals if alone and signal.getsignal(each) not in (signal.SIG_IGN, None)]
    before = {each: signal.signal(each, _handle) for each in answered}
    _Pending.patient = patient
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def deferred_signals(*, together: bool = False) -> Iterator[None]:
    """Let the first signal wait until `stop_if_asked`, or the end of the block; a second one raises at once.

    Parameters
    ----------
    together : bool
        Whether processes work together: a signal then waits for `ask_to_stop`, which each of them calls.
    """
    outer = _Pending.deferred, _Pending.together
    _Pending.deferred, _Pending.together = True, together
    try:
        yield
    finally:
        heard = _Pending.received or _Pending.heard
        _Pending.deferred, _Pending.together = outer
        _Pending.heard = _Pending.received = 0
        # An error in the block does not make the signal forgotten.
        if heard:
            raise Interruption(heard)


def signal_heard() -> int:
    """Return the signal that this process has heard, 0 if none."""
    return _Pending.heard


def ask_to_stop(received: int) -> None:
    """Receive a signal that any of the processes has heard; 0 for none."""
    _Pending.received = _Pending.received or received


def asked_to_stop() -> bool:
    """Return whether a signal is waiting."""
    return bool(_Pending.received)


def stop_if_asked() -> None:
    """Raise the `Interruption` of a signal that is waiting."""
    if _Pending.received:
        raise Interruption(_Pending.received)


def _handle(received: int, frame: FrameType | None) -> None:
    if not _Pending.deferred or (_Pending.heard and not _Pending.patient):
        raise Interruption(received)
    _Pending.heard = received
    if not _Pending.together:
        _Pending.received = received
