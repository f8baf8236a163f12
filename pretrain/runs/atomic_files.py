"""Files that are written whole or not at all, and checkpoints that are read as data alone."""

from pathlib import Path
from typing import Any

import torch

from pretrain.errors import UserError


def load_data(file: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values.

    Raises
    ------
    UserError
        When the file is damaged or holds anything else.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; each means that the file cannot be used
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is not a checkpoint that can be read ({reason}).") from None


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    scratch = file.with_name(f"{file.name}.part")
    scratch.write_text(text, errors="surrogateescape")  # names of files may be in an old encoding
    scratch.replace(file)
