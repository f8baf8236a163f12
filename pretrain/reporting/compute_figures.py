"""Figures of what compute buys: accuracy over total compute and time, and the difference at equal compute."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pretrain.comparison.compute_curves import Curve, Unit, complete_seeds, curve, kept_by_all
from pretrain.comparison.compute_frontier import ComputeFrontier, differences_over_compute
from pretrain.comparison.sequential_looks import Looks
from pretrain.reporting.comparison_figures import Drawing, file_name, panels
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.compute_text import estimates
from pretrain.reporting.plotting import INTERVAL_FROM, Style, claimed, name_lines, panel, spread, styles

# A curve is drawn through this many points, since it bends between the multiples that were run.
POINTS = 65
# Units of an axis, each with what it is worth.
UNITS: dict[Unit, dict[str, float]] = {
    "flops": {"kFLOP": 1e3, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18},
    "seconds": {"seconds": 1, "minutes": 60, "hours": 3600},
}
NAMES: dict[Unit, str] = {"flops": "total compute", "seconds": "time of training"}


def draw_compute(results: Results, frontiers: Sequence[ComputeFrontier]) -> Iterator[Drawing]:
    """Draw accuracy over total compute and over time, and the differences at equal compute, at each label budget."""
    comparison, runs = results.comparison, results.runs_by_compute.dropna(subset="test_accuracy")
    if len(comparison.compute) < 2:
        return
    looks, shared_by = styles(comparison.arms, comparison.baseline), comparison.shared_by
    many = runs["seed"].nunique() >= INTERVAL_FROM
    interval = f"mean{' and 95% interval' if many else ''}"
    for labels, of_budget in runs.groupby("labels"):
        here = [f for f in frontiers if f.labels == labels]
        for title, arms in panels(comparison).items():
            of_main = [f for f in here if f.arm == comparison.main_arm]
            of_arms = [f for f in here if f.arm in arms]
            pretrained = shared_by > 1 and any(comparison.arms[arm].pretrained for arm in arms)
            dashed = f" Dashed: pretraining shared by {shared_by:,} trainings." if pretrained else ""
            where = f"{title}, {labels:,} labels: {interval}.{dashed}"
            if figure := draw_accuracy_over_cost(of_budget, arms, looks, "flops", shared_by, of_main):
                caption = f"Test accuracy over total compute, {where}{_shading(of_main, arms)}"
                yield Drawing("compute", file_name("compute", title, labels, "labels"), caption, figure)
            if figure := draw_differences_over_compute(of_budget, of_arms, looks, comparison.looks):
                caption = f"Points above {comparison.baseline} at equal total compute, {where}"
                yield Drawing("compute", file_name("compute differences", title, labels, "labels"), caption, figure)
            if figure := draw_accuracy_over_cost(of_budget, arms, looks, "seconds", shared_by):
                caption = f"Test accuracy over time of training, {where}"
                yield Drawing("compute", file_name("compute seconds", title, labels, "labels"), caption, figure)


def _shading(crossings: Sequence[ComputeFrontier], arms: Sequence[str]) -> str:
    shaded = any(_shaded(f) for f in crossings if f.arm in arms and f.shared_by == 1)
    return " Shaded: the 95% interval for where the curves cross, pretraining charged in full." if shaded else ""


def _shaded(frontier: ComputeFrontier) -> tuple[float, float] | None:
    """Return the bounds of the interval to shade: of a crossing or a turn, unless they exclude nothing."""
    turns = frontier.crossings or frontier.verdict.endswith(("from", "up to"))
    excludes = frontier.bounds != tuple(end.total for end in frontier.ends)
    return frontier.bounds if frontier.ends and turns and excludes else None


def draw_accuracy_over_cost(
    runs: pd.DataFrame,
    arms: Sequence[str],
    looks: Mapping[str, Style],
    unit: Unit,
    shared_by: int,
    frontiers: Iterable[ComputeFrontier] = (),
) -> Figure | None:
    """Draw the test accuracy of arms at one label budget over their total cost, with bands of 95% intervals.

    Parameters
    ----------
    runs : DataFrame
        One row for each run at the budget.
    arms : sequence of str
        Names of the arms to draw.
    looks : mapping of str to dict
        Color and marker of each arm.
    unit : {"flops", "seconds"}
        What costs are counted in.
    shared_by : int
        Number of trainings that share one pretraining, for the dashed curves; solid ones are charged in full.
    frontiers : iterable of ComputeFrontier
        Frontiers whose intervals for the crossing are shaded, if they charge in full and their arm is drawn.

    Returns
    -------
    Figure or None
        None where no arm has more than one multiple.
    """
    curves = {arm: _curves(runs[runs["arm"] == arm], unit, shared_by) for arm in arms}
    curves = {arm: both for arm, both in curves.items() if both}
    if not any(len(both[0].finetuning) > 1 for both in curves.values()):
        return None
    figure, axes = panel()
    scale = _over_cost(axes, [total for both in curves.values() for each in both for total in each.totals], unit)
    ends = {arm: _lines(axes, both, looks[arm], scale) for arm, both in curves.items()}
    for f in frontiers:
        if f.shared_by == 1 and f.arm in curves and (bounds := _shaded(f)):
            axes.axvspan(*(t / scale for t in bounds), color=looks[f.arm]["color"], alpha=0.08, linewidth=0, zorder=0.4)
    low, high = axes.get_ylim()
    axes.set(ylabel="test accuracy (%)", ylim=(max(low, 0), min(high, 100.5)))
    name_lines(axes, ends, looks)
    return figure


def _curves(runs: pd.DataFrame, unit: Unit, shared_by: int) -> list[Curve]:
    """Return the curve of an arm, charged in full and, where that differs, in part; none where no seed is complete."""
    seeds = complete_seeds(runs)
    if not seeds:
        return []
    by_image = kept_by_all(runs[runs["seed"].isin(seeds)])
    both = [curve(runs, seeds, unit, each, by_image) for each in (1, shared_by)]
    return both if both[1].pretraining < both[0].pretraining else both[:1]


def _lines(axes: Any, curves: Sequence[Curve], style: Style, scale: float) -> tuple[float, float]:
    """Draw the curves of an arm, the first solid with a band and the others dashed, and return the end of the first."""
    for k, each in enumerate(curves):
        knots = estimates(each.values, np.eye(len(each.finetuning)))
        finetuning = np.geomspace(each.finetuning[0], each.finetuning[-1], POINTS)
        totals = np.clip(each.pretraining + finetuning, each.totals[0], each.totals[-1])
        between = estimates(each.values, each.weights(totals))
        look = {"color": style["color"], "linewidth": 1.2 if k else 1.6, "linestyle": "--" if k else "-"}
        axes.plot(totals / scale, [100 * e.mean for e in between], **look)
        means = [100 * e.mean for e in knots]
        axes.plot(each.totals / scale, means, **style, linestyle="none", markersize=3.5 if k else 5)
        if not k:
            axes.fill_between(
                totals / scale, *spread(between, claimed).T, color=style["color"], alpha=0.15, linewidth=0
            )
            end = float(each.totals[-1] / scale), means[-1]
        if len(knots) == 1:
            axes.vlines(each.totals / scale, *spread(knots, claimed).T, color=style["color"], linewidth=1.4)
    return end


def draw_differences_over_compute(
    runs: pd.DataFrame, frontiers: Sequence[ComputeFrontier], looks: Mapping[str, Style], allowed: Looks
) -> Figure | None:
    """Draw the difference of arms from the baseline at equal total compute, where both were run with it.

    Returns
    -------
    Figure or None
        None where no arm has more than one total compute in common with the baseline.
    """
    shown = [f for f in frontiers if len(f.ends) == 2]
    if not shown:
        return None
    figure, axes = panel()
    axes.axhline(0, color="black", linewidth=0.9, zorder=0.5)
    scale = _over_cost(axes, [end.total for f in shown for end in f.ends], "flops")
    ends: dict[str, tuple[float, float]] = {}
    for f in shown:
        color, k = looks[f.arm]["color"], f.shared_by > 1
        totals, at = differences_over_compute(runs, f, POINTS, allowed)
        axes.plot(totals / scale, [100 * e.mean for e in at], color=color, linestyle="--" if k else "-", linewidth=1.6)
        axes.fill_between(totals / scale, *spread(at, claimed).T, color=color, alpha=0.08 if k else 0.15, linewidth=0)
        if not k or f.arm not in ends:
            ends[f.arm] = float(totals[-1] / scale), 100 * at[-1].mean
    axes.set(ylabel=f"points above {shown[0].baseline}")
    name_lines(axes, ends, looks)
    return figure


def _over_cost(axes: Any, totals: Sequence[float], unit: Unit) -> float:
    """Give a panel a logarithmic axis of cost in a fitting unit, and return what the unit is worth."""
    name, scale = next(iter(UNITS[unit].items()))
    for each, worth in UNITS[unit].items():
        if worth <= np.sqrt(min(totals) * max(totals)):
            name, scale = each, worth
    axes.set_xscale("log")
    # Few decades have room for more marks each.
    span = max(totals) / min(totals)
    subs = (1,) if span > 300 else (1, 2, 5) if span > 4 else range(1, 10)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set_xlabel(f"{NAMES[unit]} ({name}), pretraining included")
    return scale
