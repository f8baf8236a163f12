"""Small files that carry a digest of their content, which is checked whenever they are read."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pretrain.errors import DamagedFileError, UserError
from pretrain.runs.atomic_files import write_text
from pretrain.runs.yaml_files import read_yaml

DIGEST = "digest"
_COMMENT = re.compile(rf"^# {DIGEST}: (\w+)$", flags=re.M)


def digest_of(content: bytes | memoryview) -> str:
    """Return the digest of bytes, or of the bytes of an array, in 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of_values(values: Any) -> str:
    """Return the digest of plain values, whatever the order of their keys."""
    return digest_of(json.dumps(values, sort_keys=True, default=str).encode())


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON, with the digest of its other values under "digest"."""
    # What is read back is digested, since JSON makes lists of tuples and text of numeric keys.
    content = json.loads(json.dumps(values))
    write_text(file, json.dumps({**content, DIGEST: digest_of_values(content)}, indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Read an object that `write_json` wrote, without its digest; older files have none.

    Raises
    ------
    DamagedFileError
        When the file is no JSON object, or its content does not match its digest.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    # Too deep a nesting is no ValueError.
    except (ValueError, RecursionError):
        values = None
    return _checked(file, values, values.pop(DIGEST, None) if isinstance(values, dict) else None)


def write_config(file: Path, values: Mapping[str, Any]) -> None:
    """Write the settings of a run as YAML, with their digest in a comment at the end."""
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    write_text(file, f"{text}# {DIGEST}: {digest_of_values(yaml.safe_load(text))}\n")


def read_config(file: Path) -> dict[str, Any]:
    """Read settings that `write_config` wrote; older files have no digest.

    Raises
    ------
    DamagedFileError
        When the file is no YAML mapping, or its content does not match its digest.
    """
    try:
        values = read_yaml(file)
        found = _COMMENT.search(file.read_text(encoding="utf-8"))
    except UserError:
        values = found = None
    return _checked(file, values, found[1] if found else None)


def _checked(file: Path, values: Any, digest: object) -> dict[str, Any]:
    """Return what was read, if it is an object that matches its digest."""
    if not isinstance(values, dict):
        raise DamagedFileError(file, "its content cannot be read")
    if digest is not None and digest != digest_of_values(values):
        raise DamagedFileError(file, "its content has changed since it was written")
    return values
