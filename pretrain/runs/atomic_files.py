"""Write files atomically, and read checkpoints without executing anything in them."""

from pathlib import Path
from typing import Any

import torch

from pretrain.errors import UserError


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values.

    Raises
    ------
    UserError
        When the file is damaged or contains anything else.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    # torch raises many kinds of errors; each means that the file cannot be used.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is not a checkpoint that can be read ({reason}).") from None


def write_text(file: Path, text: str) -> None:
    """Write a file completely or not at all."""
    scratch = file.with_name(f"{file.name}.part")
    # File names in the text may be in an old encoding.
    scratch.write_text(text, errors="surrogateescape")
    scratch.replace(file)
