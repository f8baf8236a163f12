"""Colors, strips of images and saving, shared by all pictures."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

# Okabe and Ito's colors, which people with any color vision can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG."""
    figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")


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
