"""Read YAML that a user or a folder hands over, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml

from pretrain.errors import UserError

GREATEST_SIZE = 2**20  # bytes
GREATEST_COUNT = 100_000  # values, with those that an alias repeats
GREATEST_DEPTH = 50  # lists and dicts within each other
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(file: Path) -> Any:
    """Return what a YAML file holds, as plain dicts, lists and values.

    Raises
    ------
    UserError
        When the file is no YAML, or longer, deeper or by its aliases greater than any configuration.
    """
    if file.stat().st_size > GREATEST_SIZE:
        raise UserError(f"{file} is no configuration: it has more than {GREATEST_SIZE:,} bytes.")
    try:
        text = file.read_text(encoding="utf-8")
        _require_sensible_size(file, text)
        return yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is damaged: it is no YAML.") from None


def _require_sensible_size(file: Path, text: str) -> None:
    """Refuse YAML that its nesting or its aliases make greater than it looks; nothing of it is built yet.

    Each collection counts the values in it. An alias counts those of its anchor again.
    """
    open_collections: list[tuple[str, int]] = [("", 1)]
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, LOADER):
        size = 1
        anchor = getattr(event, "anchor", None) or ""
        if isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((anchor, 1))
            if len(open_collections) > GREATEST_DEPTH:
                raise UserError(f"{file} is no configuration: more than {GREATEST_DEPTH} levels lie within each other.")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_collections.pop()
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(anchor, 1)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        sizes[anchor] = size
        outer, count = open_collections[-1]
        open_collections[-1] = outer, count + size
        if count + size > GREATEST_COUNT:
            raise UserError(f"{file} is no configuration: its aliases stand for more than {GREATEST_COUNT:,} values.")
