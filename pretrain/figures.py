"""Figures of a comparison, as matplotlib figures: accuracy, paired differences, learning curves."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pretrain.pictures import COLOURS
from pretrain.statistics import Comparison, arm_estimates

MARKERS = "osD^vPX"


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for a page: the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "pretrain", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def styles(arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return a colour and a marker for each arm, the same in every figure."""
    return {
        arm: {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]} for k, arm in enumerate(arms)
    }


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def _legend_below(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def accuracy(results: pd.DataFrame, arms: list[str]) -> Figure:
    """Draw test accuracy over label budgets with 95% intervals; with one budget, each seed as a dot."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    estimates = arm_estimates(results)
    budgets = sorted(results["labels"].unique())
    style = styles(arms)
    present = [arm for arm in arms if (results["arm"] == arm).any()]
    for k, arm in enumerate(present):
        if len(budgets) == 1:
            dots = 100 * results.loc[results["arm"] == arm, "test_accuracy"]
            axes.plot(np.full(len(dots), k + 0.15), dots, "o", color=style[arm]["color"], alpha=0.4, markersize=4)
            _bar(axes, [float(k)], [estimates[arm, budgets[0]]], style[arm], arm)
        else:
            here = [n for n in budgets if (arm, n) in estimates]
            beside = [n * 1.02 ** (k - (len(present) - 1) / 2) for n in here]  # so that no bar hides another
            _bar(axes, beside, [estimates[arm, n] for n in here], {**style[arm], "linestyle": "-"}, arm)
    if len(budgets) == 1:
        axes.set_xticks(range(len(present)), present)
        axes.set(xlim=(-0.6, len(present) - 0.4), xlabel=f"{budgets[0]:,} labels")
    else:
        axes.set_xscale("log")
        axes.set_xticks(budgets, [f"{n:,}" for n in budgets])
        axes.minorticks_off()
        axes.set_xlabel("labels")
        _legend_below(figure, axes)
    low, high = axes.get_ylim()
    axes.set(ylabel="test accuracy (%)", ylim=(max(low, 0), min(high, 100.5)))
    _clean(axes)
    return figure


def _bar(axes: Any, x: list[float], estimates: list[Any], style: dict[str, Any], label: str) -> None:
    mean = np.array([100 * e.mean for e in estimates])
    spread = np.nan_to_num([[100 * (e.mean - e.low), 100 * (e.high - e.mean)] for e in estimates]).T
    axes.errorbar(x, mean, yerr=spread, label=label, capsize=3, markersize=6, **{"linestyle": "none", **style})


def differences(results: pd.DataFrame, comparisons: list[Comparison], arms: list[str]) -> Figure:
    """Draw the paired difference of each arm from the baseline: mean, 95% interval, and a dot for each seed."""
    table = results.pivot_table(index=["labels", "seed"], columns="arm", values="test_accuracy")
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(comparisons)), layout="constrained")
    axes = figure.subplots()
    style = styles(arms)
    ordered = sorted(comparisons, key=lambda c: (arms.index(c.arm), c.labels))
    for row, c in enumerate(ordered):
        dots = 100 * (table[c.arm] - table[c.baseline]).dropna().loc[c.labels]
        axes.plot(dots, np.full(len(dots), row + 0.22), "o", color=style[c.arm]["color"], alpha=0.4, markersize=4)
        d = c.difference
        spread = np.nan_to_num([[100 * (d.mean - d.low)], [100 * (d.high - d.mean)]])
        axes.errorbar([100 * d.mean], [row], xerr=spread, capsize=3, markersize=6, linestyle="none", **style[c.arm])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(ordered)), [f"{c.arm}, {c.labels:,} labels" for c in ordered])
    axes.invert_yaxis()
    axes.set_xlabel(f"accuracy minus that of {ordered[0].baseline}, same seed (points)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure


def learning_curves(curves: Mapping[tuple[str, int], pd.DataFrame], arms: list[str]) -> Figure:
    """Draw validation accuracy over steps, the mean of the seeds, a panel for each label budget.

    Parameters
    ----------
    curves : mapping
        For each arm and budget, a table with a row a step and a column a seed.
    arms : list of str
        All of them, which fixes their colours.
    """
    budgets = sorted({labels for _, labels in curves})
    figure = Figure(figsize=(max(5.0, 3.4 * len(budgets)), 3.6), layout="constrained")
    panels = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    style = styles(arms)
    for axes, labels in zip(panels, budgets, strict=True):
        for arm in [arm for arm in arms if (arm, labels) in curves]:
            mean = 100 * curves[arm, labels].mean(axis=1)
            axes.plot(mean.index, mean, label=arm, markersize=4, **style[arm])
        axes.set(title=f"{labels:,} labels", xlabel="step")
        _clean(axes)
    panels[0].set_ylabel("validation accuracy (%)")
    _legend_below(figure, max(panels, key=lambda axes: len(axes.lines)))
    return figure
