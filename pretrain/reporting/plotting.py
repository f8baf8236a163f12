"""Drawing of figures: panels that a phone can show, lines named at their ends, and rows of intervals."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pretrain.comparison.paired_differences import Estimate
from pretrain.pictures.drawing import COLORS, own_style

# On a narrow screen, the text of a wider figure would be too small to read.
WIDTH, HEIGHT = 4.7, 3.3  # inches
ROW_HEIGHT = 0.25  # inches
TEXT_HEIGHT = 0.075  # fraction of the height of a panel
GRID_COLOR = "#dddddd"
MARKERS = "sD^vPX"
# Figures show intervals from this number of seeds on: the t interval of two seeds is wider than any figure.
INTERVAL_FROM = 3

Style = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of a figure of rows: an estimate with its interval.

    Attributes
    ----------
    name : str
        Name within the group; "" where the group has a single row.
    mean, low, high : float
        Estimate and bounds of its interval. Bounds that are NaN are not drawn.
    dots : sequence of float
        Values of the single seeds.
    beside : float, optional
        Value to compare with, drawn as a ring.
    marker : str, optional
        Marker of the estimate; None for that of the arm.
    outer : (float, float), optional
        Bounds of an interval that holds the other, drawn as a thin line; not drawn where they are NaN.
    """

    name: str
    mean: float
    low: float
    high: float
    dots: Sequence[float] = field(default_factory=list)
    beside: float | None = None
    marker: str | None = None
    outer: tuple[float, float] | None = None


def styles(arms: Iterable[str], baseline: str) -> dict[str, Style]:
    """Return the color and marker of each arm, the same in every figure. The baseline is black."""
    others = [arm for arm in arms if arm != baseline]
    looks = {
        arm: {"color": COLORS[k % (len(COLORS) - 1)], "marker": MARKERS[(k + k // 6) % len(MARKERS)]}
        for k, arm in enumerate(others)
    }
    return {baseline: {"color": COLORS[-1], "marker": "o"}, **looks}


def panel(height: float = HEIGHT) -> tuple[Figure, Any]:
    """Return a figure of one panel with its axes; `height` is in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID_COLOR, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def shown(e: Estimate, images: bool = False) -> tuple[float, float]:
    """Return the bounds of an estimate for new seeds, or for new seeds and images.

    They are NaN where there are too few seeds for an informative interval, or no predictions for one of images.
    """
    bounds = e.new_images if images else (e.low, e.high)
    return bounds if bounds and e.n >= INTERVAL_FROM else (np.nan, np.nan)


def claimed(e: Estimate) -> tuple[float, float]:
    """Return the bounds of an estimate that a verdict goes by: for new images as well, where predictions were kept."""
    return shown(e, images=e.new_images is not None)


def spread(estimates: Sequence[Estimate], bounds: Callable[[Estimate], tuple[float, float]] = shown) -> np.ndarray:
    """Return the bounds of estimates in percent, (n, 2)."""
    return 100 * np.array([bounds(e) for e in estimates]).reshape(-1, 2)


def band(axes: Any, x: Sequence[float], estimates: Sequence[Estimate], style: Style) -> None:
    """Draw estimates in percent as a line, with their 95% intervals as a band around it."""
    axes.plot(x, [100 * e.mean for e in estimates], linewidth=1.6, markersize=5, **style)
    axes.fill_between(x, *spread(estimates).T, color=style["color"], alpha=0.15, linewidth=0)


def name_lines(axes: Any, ends: Mapping[str, tuple[float, float]], looks: Mapping[str, Style]) -> None:
    """Write the name of each line to the right of the panel, as near to the height of its end as there is room.

    The limits of the axes must not change afterwards.
    """
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    to_panel = axes.transScale + axes.transLimits
    heights = apart([to_panel.transform(end)[1] for end in ends.values()])
    for (name, end), height in zip(ends.items(), heights, strict=True):
        color = looks[name]["color"]
        pointer = {"arrowstyle": "-", "color": color, "linewidth": 1, "linestyle": ":", "shrinkA": 1, "shrinkB": 4}
        where = {"xytext": (1.05, height), "textcoords": "axes fraction", "va": "center", "annotation_clip": False}
        axes.annotate(name, end, arrowprops=pointer, **where)


def apart(heights: Sequence[float]) -> list[float]:
    """Return heights in the same order, moved apart just enough that a line of text fits between any two."""
    order = np.argsort(heights, kind="stable")
    moved = np.array(heights, dtype=float)
    # Each pass halves the remaining overlaps.
    for _ in range(100):
        for below, above in pairwise(order):
            missing = TEXT_HEIGHT - (moved[above] - moved[below])
            if missing > 1e-3:
                moved[below] -= missing / 2
                moved[above] += missing / 2
    return [float(height) for height in moved]


def rows(groups: Mapping[str, Sequence[Row]], looks: Mapping[str, Style]) -> tuple[Figure, Any]:
    """Draw rows of intervals below the name of their group, with a dot for each seed above its row.

    A row without a name stands beside the name of its group.
    """
    named = any(row.name for group in groups.values() for row in group)
    count = sum(named + len(group) for group in groups.values())
    figure, axes = panel(0.75 + ROW_HEIGHT * count)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID_COLOR, linewidth=0.7)
    # Six ticks leave room for numbers with two decimals.
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    at, ticks = 0, {}
    for name, group in groups.items():
        if named:
            axes.text(0.01, at, name, transform=axes.get_yaxis_transform(), va="center", weight="bold")
        for k, row in enumerate(group, at + named):
            _row(axes, k, row, looks[name])
            ticks[k] = row.name if named else name
        at += named + len(group)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(count - 0.4, -0.6)
    return figure, axes


def _row(axes: Any, at: int, row: Row, style: Style) -> None:
    color = style["color"]
    axes.plot(row.dots, np.full(len(row.dots), at - 0.27), "o", color=color, alpha=0.45, markersize=3.5, mew=0)
    if row.outer and np.isfinite(row.outer).all():
        axes.plot(row.outer, [at, at], color=color, linewidth=0.8)
    if np.isfinite(row.low) and np.isfinite(row.high):
        axes.plot([row.low, row.high], [at, at], color=color, linewidth=2.2, marker="|", markersize=7)
    if row.beside is not None:
        axes.plot([row.beside], [at], "o", color=color, markersize=6, markerfacecolor="none")
    axes.plot([row.mean], [at], row.marker or style["marker"], color=color, markersize=6)


def inline(svg: str, title: str) -> str:
    """Return the text of an SVG file as an element of a page, in the light or dark colors of the page."""
    element = svg[svg.index("<svg") :]
    # The figures of one page would share these ids.
    element = re.sub(r'<g id="[^"]*">', "<g>", element)
    for color, variable in (("#000000", "currentColor"), ("#ffffff", "none"), (GRID_COLOR, "var(--line)")):
        # A name that reads like a color stays as it is.
        element = element.replace(f": {color}", f": {variable}")
    return element.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def save_svg_and_png(figure: Figure, path: Path) -> str:
    """Write a figure as `path`.svg and `path`.png, the same bytes for the same figure, and return the SVG."""
    path.parent.mkdir(exist_ok=True)
    svg, png = (path.with_name(f"{path.name}.{suffix}") for suffix in ("svg", "png"))
    with own_style():
        figure.draw_without_rendering()
        # The figure is laid out by now, once for both files.
        figure.set_layout_engine("none")
        figure.savefig(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        figure.savefig(png, dpi=200, metadata={"Software": None})
    return svg.read_text(encoding="utf-8")
