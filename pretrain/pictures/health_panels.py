"""Plots of a stage's metrics over its steps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from pretrain.pictures.drawing import COLORS
from pretrain.stages.base import Metric


def draw_health(rows: Sequence[dict[str, Any]], title: str, metrics: Iterable[Metric]) -> Figure:
    """Draw the log of a stage, with one panel for each group of metrics in it.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the log. Only rows of batches have an "update_ratio"; rows of a sample do not.
    title : str
        Title of the figure.
    metrics : iterable of Metric
        Metrics to draw, in order.
    """
    there = {key for row in rows for key in row}
    panels = {panel: lines for panel, lines in _panels(metrics).items() if there & {line.key for line in lines}}
    columns = 3
    figure = Figure(figsize=(10, 2.7 * math.ceil(len(panels) / columns) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False).ravel()
    for axes, (panel, lines) in zip(grid, panels.items(), strict=False):
        for line in lines:
            points = [
                (row["step"], row[line.key])
                for row in rows
                if line.key in row and ("update_ratio" in row) == line.of_batches
            ]
            axes.plot(*zip(*points, strict=True), label=line.label, color=COLORS[line.color]) if points else None
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.legend(frameon=False, fontsize=8) if len(lines) > 1 else None
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def _panels(metrics: Iterable[Metric]) -> dict[str, list[Metric]]:
    """Return the lines of each panel by its title, including lines for held-out images."""
    panels: dict[str, list[Metric]] = {}
    for metric in metrics:
        lines = [metric]
        if metric.held_out:
            held_out = replace(metric, key=f"held_out_{metric.key}", label="held out", color=metric.color + 1)
            lines = [replace(metric, label="training"), held_out]
        panels.setdefault(metric.panel, []).extend(lines)
    return panels
