"""The environment of a run: versions, processor, threads and commit."""

import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed

# Packages and properties of the machine that may change the bits of a result.
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")
DECIDING = (*PACKAGES, "processor", "instructions", "accelerator", "threads", "processes")
# Instructions for which libraries of arithmetic have code of their own.
INSTRUCTIONS = ("sse4_2", "avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def environment() -> dict[str, Any]:
    """Return the versions, processor, threads and commit that a result may depend on, and who computes since when."""
    from importlib.metadata import version

    others = ("lightning-fabric", "hydra-core")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "command": command_line(),
        "python": platform.python_version(),
        **{package: version(package) for package in (*PACKAGES, *others)},
        "platform": platform.platform(),
        "processor": _processor(),
        "instructions": _instructions(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "commit": _commit(),
    }


def deciding_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each difference of two environments that may change the bits of a result."""
    known = [key for key in DECIDING if key in before]
    return [
        f"{key} was {_shown(before[key])} and is {_shown(after[key])}" for key in known if before[key] != after[key]
    ]


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _processor() -> str:
    """Return the name of the processor as its maker writes it, where the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """Return those of `INSTRUCTIONS` that the processor has, where the system lists them."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [name for name in INSTRUCTIONS if name in flags]


def _cpuinfo(key: str) -> str:
    """Return an entry of /proc/cpuinfo, which Linux alone has; nothing where it is missing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def command_line() -> str:
    """Return the command of this process as a user types it."""
    program, *arguments = sys.argv
    path = Path(program)
    module = f"-m pretrain.{path.stem}" if path.parent.name == "pretrain" else path.name
    return f"python {module} {shlex.join(arguments)}".strip()


def _commit() -> str | None:
    """Return the commit of the package's clone; None outside a clone."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    # Git may not be installed.
    except OSError:
        return None
    return result.stdout.strip() or None
