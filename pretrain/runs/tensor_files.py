"""Tensors and plain values in a safetensors file, with a digest that is checked whenever they are read.

A safetensors file holds tensors and text alone, so reading one executes nothing. It has no checksum of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from pretrain.errors import DamagedFileError
from pretrain.runs.atomic_files import write_bytes

SUFFIX = ".safetensors"
_PLAIN = "pretrain"  # key of the plain values and the digest in the file's metadata
_TENSOR = "__tensor__"  # key that marks the place of a tensor among the plain values


def save_state(file: Path, state: Mapping[str, Any]) -> str:
    """Write nested dicts and lists of tensors and plain values, completely or not at all, and return their digest.

    Parameters
    ----------
    file : Path
        File to write.
    state : mapping of str
        Keys are text. Lists and tuples both come back as lists.
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_without_tensors(state, "", tensors))
    digest = state_digest(plain, tensors)
    # More keys than one would be written in random order, and equal states would have files that differ.
    write_bytes(file, save(tensors, metadata={_PLAIN: json.dumps([digest, plain])}))
    return digest


def load_state(file: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises
    ------
    DamagedFileError
        When the file holds something else, or its content does not match its digest.
    """
    return load_with_digest(file)[0]


def load_with_digest(file: Path) -> tuple[dict[str, Any], str]:
    """Read what `save_state` wrote, and the digest that it returned; see `load_state`."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            digest, plain = json.loads((opened.metadata() or {})[_PLAIN])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        intact = digest == state_digest(plain, tensors)
        state = _with_tensors(json.loads(plain), tensors) if intact else {}
    except FileNotFoundError:
        raise DamagedFileError(file, "it is missing") from None
    # The file may hold anything, so errors of many kinds are possible.
    except Exception:
        raise DamagedFileError(file, "it is no file of tensors written by pretrain") from None
    if not intact:
        raise DamagedFileError(file, "its content has changed since it was written")
    return state, digest


def state_digest(plain: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of plain values and of the names, types, shapes and bits of tensors."""
    digest = hashlib.blake2b(plain.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return plain values with a mark in the place of each tensor, which is added to `tensors`."""
    if isinstance(value, Tensor):
        name = path or "tensor"
        # A copy has memory of its own, which safetensors asks for.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        channels_last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
        return {_TENSOR: name, "channels_last": channels_last}
    if isinstance(value, Mapping):
        return {key: _without_tensors(each, f"{path}.{key}".lstrip("."), tensors) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(each, f"{path}.{k}".lstrip("."), tensors) for k, each in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return plain values with the tensors in their places again, in the same memory format."""
    if isinstance(value, dict) and _TENSOR in value:
        tensor = tensors[value[_TENSOR]]
        return tensor.contiguous(memory_format=torch.channels_last) if value["channels_last"] else tensor
    if isinstance(value, dict):
        return {key: _with_tensors(each, tensors) for key, each in value.items()}
    return [_with_tensors(each, tensors) for each in value] if isinstance(value, list) else value
