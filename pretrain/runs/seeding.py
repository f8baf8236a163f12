"""Named random generators: every draw of a run comes from its seed and a name.

The name of a draw inside a training loop includes its step. No random state has to be saved: a resumed run names the
same step and gets the same numbers, and a new draw does not change any other.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the draw called `names` in the run with this `seed`.

    Parameters
    ----------
    seed : int
        Seed of the run.
    *names : str or int
        Name of the draw, for example ``"order", epoch``.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator for the draw called `names`; the arguments are those of `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of torch that draw on a device, and the one of the CPU."""
    # For the sake of devices that are not in use, torch.manual_seed writes down the stack of its caller each time.
    seed_all = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seed_all(seed)


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore them after it.

    This is for draws that take no generator: the initialization of modules, and torch's own dropout.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, *names))
        yield
