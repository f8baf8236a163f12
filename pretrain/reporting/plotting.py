"""How figures are drawn: panels of one size that a phone can show, lines named at their ends, rows of intervals."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pretrain.comparison.paired_differences import Estimate
from pretrain.pictures.drawing import COLORS

WIDTH, HEIGHT = 4.7, 3.3  # inches: on a narrow screen the text of a wider figure would be too small to read
ROW = 0.25  # inches, of a figure of rows
LINE = 0.075  # of a panel's height, for a line of text
GRID = "#dddddd"
MARKERS = "sD^vPX"
INTERVAL_FROM = 3  # seeds; a t interval of two is wider than any figure
STYLE: Any = {"svg.hashsalt": "pretrain", "svg.fonttype": "none", "font.family": "sans-serif"}

Style = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of a figure of rows: what it is called within its group, an estimate in percent, and the seeds it is of.

    `low` and `high` are NaN where there is no interval to draw; `beside` is a value to compare with; `marker` stands in
    for the usual one.
    """

    name: str
    mean: float
    low: float
    high: float
    dots: Sequence[float] = field(default_factory=list)
    beside: float | None = None
    marker: str | None = None


def styles(arms: Iterable[str], baseline: str) -> dict[str, Style]:
    """Return a color and a marker for each arm, the same in every figure; the baseline is black."""
    others = [arm for arm in arms if arm != baseline]
    looks = {
        arm: {"color": COLORS[k % (len(COLORS) - 1)], "marker": MARKERS[(k + k // 6) % len(MARKERS)]}
        for k, arm in enumerate(others)
    }
    return {baseline: {"color": COLORS[-1], "marker": "o"}, **looks}


def panel(height: float = HEIGHT) -> tuple[Figure, Any]:
    """Return a figure of one panel, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def shown(e: Estimate) -> tuple[float, float]:
    """Return the bounds of an estimate, NaN where there are too few seeds for an interval that says anything."""
    return (e.low, e.high) if e.n >= INTERVAL_FROM else (np.nan, np.nan)


def spread(estimates: Sequence[Estimate], scale: float = 100) -> np.ndarray:
    """Return the bounds of estimates in percent, (n, 2), those that are to be shown."""
    return scale * np.array([shown(e) for e in estimates]).reshape(-1, 2)


def band(axes: Any, x: Sequence[float], estimates: Sequence[Estimate], style: Style) -> None:
    """Draw estimates in percent as a line in a band, the 95% interval."""
    axes.plot(x, [100 * e.mean for e in estimates], linewidth=1.6, markersize=5, **style)
    axes.fill_between(x, *spread(estimates).T, color=style["color"], alpha=0.15, linewidth=0)


def name_lines(axes: Any, ends: Mapping[str, tuple[float, float]], looks: Mapping[str, Style]) -> None:
    """Write the name of each line to the right of the panel, at the height of its end or as near as there is room.

    The limits of the axes must not change after that.
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
    """Return heights moved as little as keeps a line of text between each two, in the same order."""
    order = np.argsort(heights, kind="stable")
    moved = np.array(heights, dtype=float)
    for _ in range(100):  # each pass halves what is left of an overlap
        for below, above in pairwise(order):
            missing = LINE - (moved[above] - moved[below])
            if missing > 1e-3:
                moved[below] -= missing / 2
                moved[above] += missing / 2
    return [float(height) for height in moved]


def rows(groups: Mapping[str, Sequence[Row]], looks: Mapping[str, Style]) -> tuple[Figure, Any]:
    """Draw rows of intervals, those of a group below its name, each seed as a dot above its row.

    Where rows have no names, each is beside that of its group.
    """
    named = any(row.name for group in groups.values() for row in group)
    count = sum(named + len(group) for group in groups.values())
    figure, axes = panel(0.75 + ROW * count)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # numbers of two decimals have room
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
    if np.isfinite(row.low) and np.isfinite(row.high):
        axes.plot([row.low, row.high], [at, at], color=color, linewidth=1.6, marker="|", markersize=7)
    if row.beside is not None:
        axes.plot([row.beside], [at], "o", color=color, markersize=6, markerfacecolor="none")
    axes.plot([row.mean], [at], row.marker or style["marker"], color=color, markersize=6)


def inline(svg: str, title: str) -> str:
    """Return an SVG file as an element of a page, whose ink and paper it takes over, light or dark."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'<g id="[^"]*">', "<g>", element)  # names that the figures of a page would share
    for color, variable in (("#000000", "currentColor"), ("#ffffff", "none"), (GRID, "var(--line)")):
        element = element.replace(color, variable)
    return element.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def export(figure: Figure, path: Path) -> str:
    """Write a figure as `path`.svg and `path`.png, and return the SVG: the same figure gives the same files."""
    path.parent.mkdir(exist_ok=True)
    svg, png = (path.with_name(f"{path.name}.{suffix}") for suffix in ("svg", "png"))
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out now, once for both files
        figure.savefig(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        figure.savefig(png, dpi=200, metadata={"Software": None})
    return svg.read_text()
