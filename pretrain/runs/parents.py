"""Processes that end with the one that started them, in whatever way that one ended."""

import os
import threading
import time
from collections.abc import Callable

POLL_SECONDS = 1.0


def when_parent_ends(parent: int, act: Callable[[], object]) -> None:
    """Call a function, in a thread of its own, once the process of this number is no longer the parent of this one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        act()

    threading.Thread(target=watch, daemon=True).start()
