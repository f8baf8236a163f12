"""Tables of a report as text: accuracies, paired differences, label efficiency, cost and trials."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.paired_differences import Estimate
from pretrain.comparison.verdicts import PairedComparison, arm_estimates
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.plotting import shown

MISSING = "-"
# The heads of the two intervals.
NEW_SEEDS, NEW_IMAGES = "95%, new seeds", "95%, new seeds and images"
# The other columns of the trials are settings.
TRIAL_COLUMNS = ("arm", "labels", "seed", "trial", "val_accuracy", "seconds", "chosen", "failure")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    heads : list of str
        Heads of the columns.
    rows : list of list of str
        Cells of the rows.
    words : list of int
        Positions of the columns that hold words, and not numbers.
    """

    heads: list[str]
    rows: list[list[str]]
    words: list[int] = field(default_factory=lambda: [0])


def seconds(value: float) -> str:
    """Return a time, given in seconds, in a fitting unit."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def flops(value: float) -> str:
    """Return a number of floating-point operations with a fitting prefix."""
    power = min(int(np.log10(value) // 3), 6) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}FLOP"


def interval(low: float, high: float, sign: str = "") -> str:
    """Return the bounds of an interval in percent, or a dash where there is none."""
    return f"{100 * low:{sign}.2f} to {100 * high:{sign}.2f}" if np.isfinite(low) else MISSING


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else MISSING


def by_arm(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs arm by arm, in the order of their first runs, each with the smallest budget first."""
    order = {arm: k for k, arm in enumerate(runs["arm"].unique())}
    # The budget "all" has a number only once a run with it is complete.
    labels = pd.to_numeric(runs["labels"], errors="coerce").fillna(np.inf)
    return runs.iloc[labels.argsort(kind="stable")].sort_values("arm", key=lambda a: a.map(order), kind="stable")


def accuracies(runs: pd.DataFrame) -> Table:
    """Return the mean test and validation accuracy of each arm and budget, in percent."""
    runs = by_arm(runs).astype({"val_accuracy": float})
    validation = arm_estimates(runs, "val_accuracy")

    def row(arm: str, labels: int, e: Estimate) -> list[str]:
        also = validation.get((arm, labels))
        there = f"{100 * also.mean:.2f}" if also else MISSING
        return [arm, f"{labels:,}", str(e.n), f"{100 * e.mean:.2f}", *_intervals(e), there]

    heads = ["arm", "labels", "n", "test", NEW_SEEDS, NEW_IMAGES, "validation"]
    return _with_known_intervals(heads, [row(arm, labels, e) for (arm, labels), e in arm_estimates(runs).items()])


def _intervals(e: Estimate, sign: str = "") -> list[str]:
    """Return the interval for new seeds, and that for new seeds and images."""
    return [interval(*shown(e), sign), interval(*shown(e, images=True), sign)]


def _with_known_intervals(heads: list[str], rows: list[list[str]]) -> Table:
    """Return a table without the column of intervals for new images where no row has one."""
    column = heads.index(NEW_IMAGES)
    if all(row[column] == MISSING for row in rows):
        heads, *rows = ([*row[:column], *row[column + 1 :]] for row in (heads, *rows))
    return Table(heads, rows, [k for k, head in enumerate(heads) if head in ("arm", "verdict")])


def paired_differences(paired: Sequence[PairedComparison]) -> Table:
    """Return the statistics of each paired difference, in points."""
    heads = ["arm", "labels", "n", "mean", NEW_SEEDS, NEW_IMAGES, "p", "p, Holm", "effect", "detectable", "verdict"]
    return _with_known_intervals(heads, [_paired_row(c) for c in paired])


def _paired_row(c: PairedComparison) -> list[str]:
    d = c.difference
    return [
        c.arm,
        f"{c.labels:,}",
        str(d.n),
        f"{100 * d.mean:+.2f}",
        *_intervals(d, "+"),
        f"{c.p:.2g}" if d.n > 1 else MISSING,
        f"{c.p_corrected:.2g}" if d.n > 1 else MISSING,
        _number(c.effect, "+.2f"),
        _number(100 * c.detectable, ".2f"),
        c.verdict,
    ]


def label_efficiency_table(efficiencies: Sequence[LabelEfficiency]) -> Table:
    """Return the label efficiency of each arm at each budget, one sentence for each."""
    rows = [[each.arm, f"{each.labels:,}", each.sentence()] for each in efficiencies]
    return Table(["arm", "labels", "label efficiency"], rows, [0, 2])


def cost(runs: pd.DataFrame) -> Table:
    """Return the mean cost of a run of each arm and budget over the seeds."""
    columns = ["pretrain_seconds", "finetune_seconds", "pretrain_flops", "finetune_flops", "steps"]
    rows = []
    for (arm, budget), group in by_arm(runs).groupby(["arm", "labels"], sort=False):  # type: ignore[misc]
        before, after, before_flops, after_flops, steps = group[columns].mean()
        first = [seconds(before), flops(before_flops)] if before_flops else [MISSING, MISSING]
        rows.append([str(arm), f"{budget:,}", *first, seconds(after), flops(after_flops), f"{steps:,.0f}"])
    return Table(["arm", "labels", "pretraining", "its compute", "fine-tuning", "its compute", "steps"], rows)


def settings_tried(trials: pd.DataFrame) -> list[str]:
    """Return the names of the settings that were tuned."""
    return [str(column) for column in trials if column not in TRIAL_COLUMNS]


def trials(results: Results) -> dict[str, Table]:
    """Return the trials of each arm, budget by budget, with the chosen ones marked."""
    settings = settings_tried(results.trials)
    heads = ["labels", "trial", "seed", *settings, "validation (%)", "time", ""]
    return {
        str(arm): Table(heads, [_trial(row, settings) for row in group.to_dict("records")], [0, len(heads) - 1])
        for arm, group in by_arm(results.trials).groupby("arm", sort=False)
    }


def _trial(row: Any, settings: Sequence[str]) -> list[str]:
    return [
        *(str(row[key]) for key in ("labels", "trial", "seed")),
        *(_plain(row[key]) for key in settings),
        *_outcome(row),
    ]


def _outcome(row: Any) -> list[str]:
    if isinstance(row["failure"], str):
        return [MISSING, MISSING, f"failed: {row['failure']}"]
    return [f"{100 * row['val_accuracy']:.2f}", seconds(row["seconds"]), "chosen" if row["chosen"] == "yes" else ""]


def _plain(value: object) -> str:
    """Return a setting as on a command line, or a dash for a gap."""
    # Where a column has gaps, pandas turns its whole numbers into floats.
    if value is None or value != value:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)
