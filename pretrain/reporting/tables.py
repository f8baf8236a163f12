"""Tables of a report, as text: accuracies, paired differences, labels needed, cost and trials."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.paired_differences import Estimate
from pretrain.comparison.verdicts import PairedComparison, arm_estimates
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.plotting import INTERVAL_FROM, shown

NONE = "-"
FIXED = ("arm", "labels", "seed", "trial", "val_accuracy", "seconds", "chosen", "failure")  # not settings, of trials


@dataclass(frozen=True)
class Table:
    """Heads, rows of text, and the columns that are words and not numbers; the first always is."""

    heads: list[str]
    rows: list[list[str]]
    words: list[int] = field(default_factory=lambda: [0])


def seconds(value: float) -> str:
    """Return a time in the unit that suits it."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def flops(value: float) -> str:
    """Return a number of floating-point operations with the prefix that suits it."""
    power = min(int(np.log10(value) // 3), 6) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}FLOP"


def interval(low: float, high: float, sign: str = "") -> str:
    """Return the bounds of an interval in percent; nothing for a single seed."""
    return f"{100 * low:{sign}.2f} to {100 * high:{sign}.2f}" if np.isfinite(low) else NONE


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else NONE


def by_arm(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs arm by arm, in the order of their first, with few labels first."""
    order = {arm: k for k, arm in enumerate(runs["arm"].unique())}
    labels = pd.to_numeric(runs["labels"], errors="coerce").fillna(np.inf)  # "all", of which no run is complete
    return runs.iloc[labels.argsort(kind="stable")].sort_values("arm", key=lambda a: a.map(order), kind="stable")


def accuracies(runs: pd.DataFrame) -> Table:
    """Return the mean test and validation accuracy of each arm and budget, in percent."""
    runs = by_arm(runs).astype({"val_accuracy": float})
    validation = arm_estimates(runs, "val_accuracy")

    def row(arm: str, labels: int, e: Estimate) -> list[str]:
        also = validation.get((arm, labels))
        there = f"{100 * also.mean:.2f}" if also else NONE
        return [arm, f"{labels:,}", str(e.n), f"{100 * e.mean:.2f}", interval(*shown(e)), there]

    heads = ["arm", "labels", "n", "test", "95% interval", "validation"]
    return Table(heads, [row(arm, labels, e) for (arm, labels), e in arm_estimates(runs).items()])


def paired(comparisons: Sequence[PairedComparison]) -> Table:
    """Return all that is known of each paired difference, in points."""
    heads = ["arm", "labels", "n", "mean", "95% t interval", "95% bootstrap", "p", "p, Holm", "effect", "detectable"]
    return Table([*heads, "verdict"], [_paired_row(c) for c in comparisons], [0, len(heads)])


def _paired_row(c: PairedComparison) -> list[str]:
    d = c.difference
    return [
        c.arm,
        f"{c.labels:,}",
        str(d.n),
        f"{100 * d.mean:+.2f}",
        interval(*shown(d), "+"),
        interval(*(c.bootstrap if d.n >= INTERVAL_FROM else shown(d)), "+"),
        f"{c.p:.2g}" if d.n > 1 else NONE,
        f"{c.p_corrected:.2g}" if d.n > 1 else NONE,
        _number(c.effect, "+.2f"),
        _number(100 * c.detectable, ".2f"),
        c.verdict,
    ]


def labels(needed: Sequence[LabelEfficiency]) -> Table:
    """Return what each arm is worth in labels, a sentence a row."""
    return Table(["arm", "labels", "worth"], [[n.arm, f"{n.labels:,}", n.sentence()] for n in needed], [0, 2])


def cost(runs: pd.DataFrame) -> Table:
    """Return what a run of each arm and budget costs, the mean over seeds."""
    columns = ["pretrain_seconds", "finetune_seconds", "pretrain_flops", "finetune_flops", "steps"]
    rows = []
    for (arm, budget), group in by_arm(runs).groupby(["arm", "labels"], sort=False):  # type: ignore[misc]
        before, after, before_flops, after_flops, steps = group[columns].mean()
        first = [seconds(before), flops(before_flops)] if before_flops else [NONE, NONE]
        rows.append([str(arm), f"{budget:,}", *first, seconds(after), flops(after_flops), f"{steps:,.0f}"])
    return Table(["arm", "labels", "pretraining", "its work", "fine-tuning", "its work", "steps"], rows)


def settings_tried(trials: pd.DataFrame) -> list[str]:
    """Return the names of the settings that were tuned."""
    return [str(column) for column in trials if column not in FIXED]


def trials(results: Results) -> dict[str, Table]:
    """Return the trials of each arm, budget by budget, the chosen ones marked."""
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
        return [NONE, NONE, f"failed: {row['failure']}"]
    return [f"{100 * row['val_accuracy']:.2f}", seconds(row["seconds"]), "chosen" if row["chosen"] == "yes" else ""]


def _plain(value: object) -> str:
    """Return a setting as one would type it; pandas makes floats of a column of numbers that has gaps, which stay."""
    if value is None or value != value:
        return NONE
    return f"{value:g}" if isinstance(value, float) else str(value)
