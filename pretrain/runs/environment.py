"""The environment of a run: versions, processor, threads and commit."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Return the versions, processor, threads and commit that a result may depend on."""
    from importlib.metadata import version

    packages = ("torch", "torchvision", "lightning-fabric", "hydra-core", "scikit-learn", "scipy", "numpy")
    return {
        "command": command_line(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


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
