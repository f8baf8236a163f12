"""Where a gain comes from: figures over depth of a linear probe, layers kept and unlabelled images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pretrain.comparison.paired_differences import estimate
from pretrain.comparison.plan import Arm, Comparison
from pretrain.comparison.verdicts import PairedComparison
from pretrain.pictures.drawing import COLORS
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.plotting import Style, band, name_lines, panel, spread

PROBED = {
    "pretrained": {"color": COLORS[0], "marker": "s"},
    "random": {"color": COLORS[-1], "marker": "o"},
}
# Of label budgets.
SHADES: list[Style] = [{"color": color, "marker": mark} for color, mark in zip(COLORS[:6], "osD^vP", strict=True)]


def probe_depths(probes: pd.DataFrame) -> Figure:
    """Draw the test accuracy of linear probes at one label budget over depth, of pretrained and of random layers."""
    figure, axes = panel()
    ticks, ends = sorted(probes["depth"].unique()), {}
    for init, name in (("pretrained", "pretrained"), ("scratch", "random")):
        of_init = probes[probes["init"] == init]
        if len(of_init):
            at = [estimate(of_init.loc[of_init["depth"] == depth, "test_accuracy"]) for depth in ticks]
            band(axes, ticks, at, PROBED[name])
            ends[name] = ticks[-1], 100 * at[-1].mean
    axes.set_xticks(ticks, ["pixels" if depth == 0 else f"layer {depth}" for depth in ticks])
    axes.set(ylabel="test accuracy of a probe (%)")
    name_lines(axes, ends, PROBED)
    return figure


def layers_kept(results: Results, comparisons: Sequence[PairedComparison]) -> Figure | None:
    """Draw the gain over the baseline by the number of pretrained layers kept, a line a label budget."""
    comparison = results.comparison
    at = {arm: comparison.arms[arm].upto for arm in _variants(comparison, "upto")}
    if not at:
        return None
    at[str(comparison.main_arm)] = len(comparison.stack.stages)
    plain = comparison.arms[comparison.baseline] == Arm()
    return _gains(comparisons, at, "pretrained layers kept", origin=[0] if plain else [])


def unlabelled_images(results: Results, comparisons: Sequence[PairedComparison]) -> Figure | None:
    """Draw the gain over the baseline by the number of unlabelled images, a line a label budget."""
    comparison = results.comparison
    at = {arm: comparison.arms[arm].num_unlabelled for arm in _variants(comparison, "num_unlabelled")}
    whole = results.stages.loc[results.stages["num_unlabelled"].isna(), "unlabelled"]
    if not at:
        return None
    if len(whole):
        at[str(comparison.main_arm)] = int(whole.iloc[0])
    return _gains(comparisons, at, "unlabelled images", origin=[], log=True)


def _variants(comparison: Comparison, setting: str) -> list[str]:
    """Return the arms that differ from the main one in this setting alone."""
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
    comparisons: Sequence[PairedComparison], at: Mapping[str, Any], what: str, origin: list[int], log: bool = False
) -> Figure | None:
    """Draw paired differences, in points, of arms at the places given, a line a label budget, from an origin on."""
    shown = sorted((c for c in comparisons if c.arm in at), key=lambda c: at[c.arm])
    if not shown:
        return None
    figure, axes = panel()
    axes.axhline(0, color="black", linewidth=0.9, zorder=0.5)
    ticks = sorted({*origin, *at.values()})
    axes.set_xscale("log" if log else "linear")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    budgets = sorted({c.labels for c in shown})
    looks: dict[str, Style] = {}
    ends = {}
    for k, labels in enumerate(budgets):
        here = [c for c in shown if c.labels == labels]
        shift = 0.05 * (k - (len(budgets) - 1) / 2)  # so that no interval hides another
        x = [at[c.arm] * (1 + shift) if log else at[c.arm] + shift for c in here]
        name, means = f"{labels:,} labels", [100 * c.difference.mean for c in here]
        looks[name] = SHADES[k % len(SHADES)]
        axes.plot([*origin, *x], [*origin, *means], linewidth=1.6, markersize=5, **looks[name])
        axes.vlines(x, *spread([c.difference for c in here]).T, color=looks[name]["color"], linewidth=1.4)
        ends[name] = x[-1], means[-1]
    axes.set(xlabel=what, ylabel=f"points above {shown[0].baseline}")
    name_lines(axes, ends, looks)
    return figure
