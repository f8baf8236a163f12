"""Telling that memory ran out from other errors."""

import re

# What Python, NumPy, torch, the C++ library and the dynamic linker say.
SHORTAGES = "not enough memory|out of memory|can.?t allocate|cannot allocate|bad_alloc|start new thread|map segment"
ADVICE = "give a smaller batch_size, layer.out_channels or data.image_size, or a machine with more"


def out_of_memory(error: BaseException) -> str | None:
    """Return a line on memory that ran out, with what to make smaller; None where `error` is another.

    Python and NumPy raise a `MemoryError`, torch a `RuntimeError` that says so, the system an `OSError`, and libraries
    that find no room for their code an `ImportError`.
    """
    kinds = (RuntimeError, OSError, ImportError)
    if not isinstance(error, MemoryError) and not (
        isinstance(error, kinds) and re.search(SHORTAGES, str(error), flags=re.I)
    ):
        return None
    if isinstance(error, ImportError):
        return "memory ran out before the work began, while a library was loaded: allow more than ulimit -v does."
    wanted = re.search(r"allocate (\d+) bytes", str(error))
    amount = f" (another {int(wanted[1]) / 1e9:.1f} GB were wanted)" if wanted else ""
    return f"memory ran out{amount}: {ADVICE}."
