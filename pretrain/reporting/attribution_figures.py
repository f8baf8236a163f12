"""Figures that attribute a gain: linear probes over depth, pretrained layers kept, and unlabelled images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pretrain.comparison.arms import Arm
from pretrain.comparison.paired_differences import estimate
from pretrain.comparison.plan import Comparison
from pretrain.comparison.verdicts import PairedComparison
from pretrain.pictures.drawing import COLORS
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.plotting import Style, band, claimed, name_lines, panel, shown, spread

PROBE_STYLES = {
    "pretrained": {"color": COLORS[0], "marker": "s"},
    "random": {"color": COLORS[-1], "marker": "o"},
}
# The color and marker of each label budget, in their order.
BUDGET_STYLES: list[Style] = [
    {"color": color, "marker": mark} for color, mark in zip(COLORS[:6], "osD^vP", strict=True)
]


def probe_depths(probes: pd.DataFrame) -> Figure:
    """Draw the test accuracy of linear probes of pretrained and of random layers over depth, at one label budget."""
    figure, axes = panel()
    ticks, ends = sorted(probes["depth"].unique()), {}
    for init, name in (("pretrained", "pretrained"), ("scratch", "random")):
        of_init = probes[probes["init"] == init]
        if len(of_init):
            at = [estimate(of_init.loc[of_init["depth"] == depth, "test_accuracy"]) for depth in ticks]
            band(axes, ticks, at, PROBE_STYLES[name])
            ends[name] = ticks[-1], 100 * at[-1].mean
    axes.set_xticks(ticks, ["pixels" if depth == 0 else f"layer {depth}" for depth in ticks])
    axes.set(ylabel="test accuracy of a linear probe (%)")
    name_lines(axes, ends, PROBE_STYLES)
    return figure


def layers_kept(results: Results, paired: Sequence[PairedComparison]) -> Figure | None:
    """Draw the gain over the baseline by the number of pretrained layers kept, with a line for each label budget."""
    comparison = results.comparison
    at = {arm: comparison.arms[arm].upto for arm in _variants(comparison, "upto")}
    if not at:
        return None
    at[str(comparison.main_arm)] = len(comparison.stack.stages)
    plain = comparison.arms[comparison.baseline] == Arm()
    return _gains(paired, at, "pretrained layers kept", origin=[0] if plain else [])


def unlabelled_images(results: Results, paired: Sequence[PairedComparison]) -> Figure | None:
    """Draw the gain over the baseline by the number of unlabelled images, with a line for each label budget."""
    comparison = results.comparison
    at = {arm: comparison.arms[arm].num_unlabelled for arm in _variants(comparison, "num_unlabelled")}
    whole = results.stages.loc[results.stages["num_unlabelled"].isna(), "unlabelled"]
    if not at:
        return None
    if len(whole):
        at[str(comparison.main_arm)] = int(whole.iloc[0])
    return _gains(paired, at, "unlabelled images", origin=[], log=True)


def _variants(comparison: Comparison, setting: str) -> list[str]:
    """Return the arms that differ from the main arm in this setting alone."""
    main = comparison.main_arm
    if main is None:
        return []
    same = comparison.arms[main]
    return [
        name
        for name, arm in comparison.arms.items()
        if arm != same and replace(arm, **{setting: getattr(same, setting)}) == same
    ]


def _gains(
    paired: Sequence[PairedComparison], at: Mapping[str, Any], what: str, origin: list[int], log: bool = False
) -> Figure | None:
    """Draw the paired differences of arms, in points, with a line for each label budget.

    Parameters
    ----------
    paired : sequence of PairedComparison
        Arms against the baseline.
    at : mapping of str to int
        Horizontal position of each arm to draw.
    what : str
        Name of the horizontal axis.
    origin : list of int
        Positions where the gain is 0 by definition.
    log : bool
        Whether the horizontal axis is logarithmic.

    Returns
    -------
    Figure or None
        None where none of these arms has a paired difference.
    """
    drawn = sorted((c for c in paired if c.arm in at), key=lambda c: at[c.arm])
    if not drawn:
        return None
    figure, axes = panel()
    axes.axhline(0, color="black", linewidth=0.9, zorder=0.5)
    ticks = sorted({*origin, *at.values()})
    axes.set_xscale("log" if log else "linear")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    budgets = sorted({c.labels for c in drawn})
    looks: dict[str, Style] = {}
    ends = {}
    for k, labels in enumerate(budgets):
        here = [c for c in drawn if c.labels == labels]
        # A shift keeps the intervals of one arm from hiding each other.
        shift = 0.05 * (k - (len(budgets) - 1) / 2)
        x = [at[c.arm] * (1 + shift) if log else at[c.arm] + shift for c in here]
        name, means = f"{labels:,} labels", [100 * c.difference.mean for c in here]
        looks[name] = BUDGET_STYLES[k % len(BUDGET_STYLES)]
        axes.plot([*origin, *x], [*origin, *means], linewidth=1.6, markersize=5, **looks[name])
        for bounds, width in ((shown, 2.0), (claimed, 0.8)):
            axes.vlines(x, *spread([c.difference for c in here], bounds).T, color=looks[name]["color"], linewidth=width)
        ends[name] = x[-1], means[-1]
    axes.set(xlabel=what, ylabel=f"points above {drawn[0].baseline}")
    name_lines(axes, ends, looks)
    return figure
