"""Colors, strips of images and saving, shared by all pictures."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from pretrain.runs.atomic_files import write_bytes

# Okabe and Ito's colors, which people with any color vision can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Names are drawn as they are written, dollars included. The text of an SVG file stays text, and its ids are the same
# each time.
STYLE: Any = {"text.parse_math": False, "svg.hashsalt": "pretrain", "svg.fonttype": "none"}


@contextmanager
def own_style() -> Iterator[None]:
    """Draw and save figures in the block as matplotlib does by itself, whatever settings the user has."""
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    with matplotlib.rc_context({**defaults, **STYLE}), warnings.catch_warnings():
        # A character that no font has is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def save_figure(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure and write it as a PNG, completely or not at all."""
    png = io.BytesIO()
    with own_style():
        draw().savefig(png, format="png", dpi=110, bbox_inches="tight", facecolor="white")
    write_bytes(path, png.getvalue())


def legible(name: str) -> str:
    """Return a name that fonts can draw: what is in another encoding than UTF-8 is replaced by a mark."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def draw_strips(rows: dict[str, Tensor]) -> Figure:
    """Draw labelled rows of pictures, (N, C, H, W) each."""
    count = max(len(row) for row in rows.values())
    figure = Figure(figsize=(1.05 * count + 1, 1.05 * len(rows) + 0.4))
    for axes, (label, row) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True):
        show_image(axes, make_grid(row, nrow=len(row), padding=1, pad_value=1.0))
        axes.set_ylabel(label, fontsize=9)
    return figure


def show_image(axes: Any, picture: Tensor) -> None:
    """Draw a picture, (C, H, W), with values from 0 to 1, without ticks or frame."""
    axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
