"""Figures of a comparison: accuracy over labels, paired differences, label efficiency, accuracy over training time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from pretrain.comparison.arms import Arm
from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.paired_differences import Estimate, estimate, seed_table
from pretrain.comparison.plan import Comparison
from pretrain.comparison.verdicts import PairedComparison, arm_estimates
from pretrain.reporting.plotting import Row, Style, band, claimed, name_lines, panel, rows, spread

# The titles of panels, in their order.
PANELS = (
    "main arms",
    "other pretraining",
    "fewer layers kept",
    "fewer unlabelled images",
    "frozen layers",
)
# A panel shows this many lines beside the baseline's; more of them could not be told apart.
ARMS_PER_PANEL = 4


Part = Literal["results", "attribution", "gallery", "compute", "time"]


@dataclass(frozen=True)
class Drawing:
    """A figure with its place in the report.

    Attributes
    ----------
    part : {"results", "time", "attribution", "gallery", "compute"}
        Part of the page.
    name : str
        Name of the file, without a suffix.
    caption : str
        Caption below the figure.
    figure : Figure
        The drawn figure.
    """

    part: Part
    name: str
    caption: str
    figure: Figure


def panels(comparison: Comparison) -> dict[str, list[str]]:
    """Return the arms of each panel by its title. The baseline is in every panel.

    Frozen arms have panels of their own, since they are often far below the others. Arms with another pretraining stand
    beside the main arm. With several label budgets, a panel has few arms. With one budget, each arm is a row, and all
    arms of a title share a panel.
    """
    most = ARMS_PER_PANEL if len(comparison.labels) > 1 else len(comparison.arms)
    groups: dict[str, list[str]] = {title: [] for title in PANELS}
    for name, arm in comparison.arms.items():
        if name != comparison.baseline:
            groups[_title(arm)].append(name)
    other = PANELS[1]
    beside = [arm for arm in [comparison.main_arm] if arm and arm not in groups[other]]
    shown = {}
    for title, arms in groups.items():
        for start in range(0, len(arms), most):
            name = title if start == 0 else f"{title}, {start // most + 1}"
            shown[name] = [comparison.baseline, *(beside if title == other else []), *arms[start : start + most]]
    return shown or {PANELS[0]: [comparison.baseline]}


def _title(arm: Arm) -> str:
    """Return the title, of `PANELS`, that an arm belongs to."""
    main, other, layers, images, frozen = PANELS
    if arm.frozen:
        return frozen
    if arm.upto is not None:
        return layers
    if arm.num_unlabelled is not None:
        return images
    return other if arm.stack else main


def file_name(*words: object) -> str:
    """Return the name of a file made of words, without blanks or commas."""
    return "-".join(map(str, words)).replace(",", "").replace(" ", "-")


def over_labels(axes: Any, budgets: Sequence[int]) -> None:
    """Give a panel a logarithmic axis of labels, with as many of the budgets marked as have room."""
    axes.set_xscale("log")
    few: list[int] = []
    for n in budgets:
        if not few or n > 1.25 * few[-1]:
            few.append(n)
    axes.set_xticks(few, [f"{n:,}" for n in few])
    axes.minorticks_off()
    axes.set_xlabel("labels")


def draw_accuracy(
    runs: pd.DataFrame, arms: Sequence[str], looks: Mapping[str, Style], limits: tuple[float, float] | None = None
) -> Figure | None:
    """Draw the test accuracy of arms over label budgets, with bands of 95% intervals, or in rows for a single budget.

    Parameters
    ----------
    runs : DataFrame
        One row for each run.
    arms : sequence of str
        Names of the arms to draw.
    looks : mapping of str to dict
        Color and marker of each arm.
    limits : (float, float), optional
        Limits of the accuracy axis in percent; None to fit the data.

    Returns
    -------
    Figure or None
        None where these arms have no runs.
    """
    estimates = {(arm, n): e for (arm, n), e in arm_estimates(runs).items() if arm in arms}
    if not estimates:
        return None
    budgets = sorted({n for _, n in estimates})
    if len(budgets) == 1:
        return _accuracy_rows(runs, estimates, looks, budgets[0])
    figure, axes = panel()
    ends = {}
    for arm in arms:
        here = [n for n in budgets if (arm, n) in estimates]
        if here:
            band(axes, here, [estimates[arm, n] for n in here], looks[arm])
            ends[arm] = here[-1], 100 * estimates[arm, here[-1]].mean
    over_labels(axes, budgets)
    low, high = limits or axes.get_ylim()
    axes.set(ylabel="test accuracy (%)", ylim=(max(low, 0), min(high, 100.5)))
    name_lines(axes, ends, looks)
    return figure


def _accuracy_rows(
    runs: pd.DataFrame, estimates: Mapping[tuple[str, int], Estimate], looks: Mapping[str, Style], labels: int
) -> Figure:
    groups = {}
    for (arm, _), e in estimates.items():
        dots = 100 * runs.loc[runs["arm"] == arm, "test_accuracy"].dropna().sort_values()
        low, high = spread([e])[0]
        groups[arm] = [Row("", 100 * e.mean, low, high, list(dots))]
    figure, axes = rows(groups, looks)
    axes.set_xlabel(f"test accuracy (%), {labels:,} labels")
    return figure


def draw_differences(
    runs: pd.DataFrame, paired: Sequence[PairedComparison], arms: Sequence[str], looks: Mapping[str, Style]
) -> Figure | None:
    """Draw the paired difference of each arm from the baseline: mean, 95% intervals and a dot for each seed.

    A thick line is the interval for new seeds, and a thin one that for new seeds and new images.
    """
    shown = sorted((c for c in paired if c.arm in arms), key=lambda c: (list(arms).index(c.arm), c.labels))
    if not shown:
        return None
    table = seed_table(runs)
    budgets = {c.labels for c in shown}
    groups: dict[str, list[Row]] = {}
    for c in shown:
        dots = 100 * (table[c.arm] - table[c.baseline]).dropna().loc[c.labels]
        name = f"{c.labels:,} labels" if len(budgets) > 1 else ""
        low, high = spread([c.difference])[0]
        outer = tuple(spread([c.difference], claimed)[0])
        row = Row(name, 100 * c.difference.mean, low, high, list(dots), outer=outer)
        groups.setdefault(c.arm, []).append(row)
    figure, axes = rows(groups, looks)
    axes.axvline(0, color="black", linewidth=0.9, zorder=0.5)
    only = f", {shown[0].labels:,} labels" if len(budgets) == 1 else ""
    axes.set_xlabel(f"points above {shown[0].baseline}\nwith the same seed{only}")
    return figure


def draw_labels_saved(
    efficiencies: Sequence[LabelEfficiency], arms: Sequence[str], looks: Mapping[str, Style]
) -> Figure | None:
    """Draw how many labels the baseline needs to be as accurate as each arm with its own labels."""
    shown = [n for n in efficiencies if n.arm in arms]
    if not shown:
        return None
    groups: dict[str, list[Row]] = {}
    for n in shown:
        mean, low, high = np.clip([n.estimate, n.low, n.high], n.smallest, n.largest)
        beyond = "<" if n.fewer else ">" if n.more else None
        row = Row(f"{n.labels:,} labels", mean, low, high, beside=n.labels, marker=beyond)
        groups.setdefault(n.arm, []).append(row)
    figure, axes = rows(groups, looks)
    budgets = sorted({shown[0].smallest, *(n.labels for n in shown), shown[0].largest})
    over_labels(axes, budgets)
    axes.set_xlabel(f"labels that {shown[0].baseline} needs\nfor the same accuracy")
    return figure


def draw_accuracy_over_time(curves: pd.DataFrame, arms: Sequence[str], looks: Mapping[str, Style]) -> Figure | None:
    """Draw the mean validation accuracy of arms at one label budget over seconds of training, pretraining included.

    A curve ends where the first of its seeds does, and its times are means over the seeds. A dashed line marks the end
    of pretraining.
    """
    figure, axes = panel()
    ends = {}
    for arm in [arm for arm in arms if (curves["arm"] == arm).any()]:
        of_arm = curves[curves["arm"] == arm]
        steps = of_arm.groupby("step")
        whole = [group for _, group in steps if len(group) == of_arm["seed"].nunique()]
        seconds = [group["seconds"].mean() for group in whole]
        estimates = [estimate(group["val_accuracy"]) for group in whole]
        if whole:
            band(axes, seconds, estimates, looks[arm])
            if (begun := of_arm["pretrain_seconds"].mean()) > 0:
                axes.axvline(begun, color=looks[arm]["color"], linewidth=1, linestyle="--", zorder=0.5)
            ends[arm] = seconds[-1], 100 * estimates[-1].mean
    if not ends:
        return None
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.minorticks_off()
    low, high = axes.get_ylim()
    limits = {"ylim": (max(low, 0), min(high, 100.5))}
    axes.set(xlabel="seconds of training, pretraining included", ylabel="validation accuracy (%)", **limits)
    name_lines(axes, ends, looks)
    return figure
