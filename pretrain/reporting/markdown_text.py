"""Text of the report in Markdown: what it says stays text, whatever the names in it."""

import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup


def as_markdown(value: Any) -> Any:
    """Return a value as a template of Markdown prints it: characters that would be HTML or a link are escaped.

    A `Markup`, such as the output of a macro, stays as it is.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return Markup(re.sub(r"([\\`*\[\]])", r"\\\1", value).replace("&", "&amp;").replace("<", "&lt;"))


def table_row(cells: Iterable[str]) -> Markup:
    """Return the cells of a row with bars between them; those in a cell are escaped, and a cell has one line."""
    texts = (" ".join(str(as_markdown(cell)).split("\n")).replace("|", "\\|") for cell in cells)
    return Markup(f"| {' | '.join(texts)} |")


def code_block(text: str) -> Markup:
    """Return text between fences that are longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}\n{text}\n{fence}")
