"""What compute buys, in words and in a table: verdicts over total compute, methods and caveats."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pretrain.comparison.compute_curves import moments
from pretrain.comparison.compute_frontier import ComputeFrontier, compute_frontiers
from pretrain.comparison.paired_differences import Estimate, as_estimate, by_image, estimate
from pretrain.comparison.plan import Comparison
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.plotting import claimed
from pretrain.reporting.settings_in_words import enumeration
from pretrain.reporting.tables import Table, flops, interval, seconds


def frontiers_of(results: Results) -> list[ComputeFrontier]:
    """Return the frontiers of a comparison with several multiples of the steps; none where there is a single one."""
    if len(results.comparison.compute) < 2:
        return []
    baseline, shared_by = results.comparison.baseline, results.comparison.shared_by
    return compute_frontiers(results.runs_by_compute, baseline, shared_by, results.comparison.looks)


def sentence(frontier: ComputeFrontier) -> str:
    """Return the verdict on an arm over total compute, with its numbers."""
    f = frontier
    where = ", ".join([f"{f.arm} against {f.baseline}", f"{f.labels:,} labels", *_charge(f.shared_by)])
    return " ".join([f"{where}: {predicate(f)}.", *(_at_ends(f) if f.ends else _apart(f))])


def clause(frontiers: Sequence[ComputeFrontier], comparison: Comparison) -> str:
    """Return what the headline says of the main arm, pretraining charged in full; "" where there is nothing to say."""
    of_main = [f for f in frontiers if f.arm == comparison.main_arm and f.shared_by < 2]
    found: dict[str, list[str]] = {}
    for f in of_main:
        found.setdefault(predicate(f, brief=True), []).append(f"{f.labels:,}")
    if not found:
        return ""
    said = [f"with {enumeration(budgets)} labels, {words}" for words, budgets in found.items()]
    return f" Against {comparison.baseline} with the same total compute, pretraining included: {'; '.join(said)}."


def predicate(frontier: ComputeFrontier, brief: bool = False) -> str:
    """Return the verdict on an arm as a predicate, without its interval where it is to be brief."""
    f = frontier
    if f.verdict == "not comparable":
        return "not comparable yet, since none was run with the compute of the other"
    least, most = flops(f.ends[0].total), flops(f.ends[-1].total)
    crossings = enumeration([flops(total) for total in f.crossings]) if f.crossings else ""
    crossing = f"; the curves cross at {crossings}" if crossings and not brief else ""
    if f.verdict == "too few seeds":
        return f"too few seeds for a claim{crossing}"
    if f.verdict == "no detectable difference":
        return f"no detectable difference {_everywhere(f)}{crossing}"
    if f.bounds is None:
        return f"{f.verdict} {_everywhere(f)}"
    if f.verdict in ("pays", "hurts"):
        between = " to ".join(flops(t) for t in f.bounds)
        both = f"{f.verdict} with the least and with the most compute of both, {least} and {most}"
        return f"{both}, but no difference is clear at {between}"
    return f"{f.verdict} {_turn(f)}{'' if brief else f' ({_bounds(f)})'}"


def _everywhere(f: ComputeFrontier) -> str:
    least, most = flops(f.ends[0].total), flops(f.ends[-1].total)
    if len(f.ends) == 1:
        return f"with {least}, the only compute of both"
    return f"from {least} to {most}, as far as both were run"


def _turn(f: ComputeFrontier) -> str:
    """Return the compute where the verdict turns, with a note where that is an end of what was run."""
    turn = flops(f.crossing)
    if f.verdict.endswith("from"):
        return f"{turn} on{', the least that both were run with' if f.crossing == f.ends[0].total else ''}"
    return f"{turn}{', the most that both were run with' if f.crossing == f.ends[-1].total else ''}"


def _bounds(f: ComputeFrontier) -> str:
    """Return the interval of that compute, which is open where it reaches an end of what was run."""
    assert f.bounds is not None
    low, high = f.bounds
    if low == f.ends[0].total:
        return f"95% interval up to {flops(high)}" if high < f.ends[-1].total else "the 95% interval covers all of it"
    return f"95% interval from {flops(low)}" + (f" to {flops(high)}" if high < f.ends[-1].total else " on")


def _charge(shared_by: int) -> list[str]:
    if shared_by == 0:
        return []
    return ["pretraining charged in full" if shared_by == 1 else f"pretraining shared by {shared_by:,} trainings"]


def _points(estimate: Estimate, p_corrected: float | None = None) -> str:
    low, high = claimed(estimate)
    p = f", corrected p = {p_corrected:.2g}" if p_corrected is not None else ""
    within = f" (95% interval {interval(low, high, '+')}{p})" if np.isfinite(low) else ""
    return f"{100 * estimate.mean:+.2f} points{within}"


def _at_ends(f: ComputeFrontier) -> Iterator[str]:
    """Yield the differences with the least and the most compute of both, and what was not run beyond them."""
    at = [f"{_points(end.estimate, end.p_corrected)} with {flops(end.total)}" for end in f.ends]
    yield f"The difference is {enumeration(at)}, n = {f.seeds}."
    unknown: dict[str, list[str]] = {}
    if len(f.ends) == 1:
        # One of them has a single cost, and the sentence has said so.
        return
    if f.arm_range[0] > f.baseline_range[0]:
        unknown.setdefault(f.arm, []).append(f"less than {flops(f.arm_range[0])}")
    if f.arm_range[1] != f.baseline_range[1]:
        shorter = f.baseline if f.baseline_range[1] < f.arm_range[1] else f.arm
        unknown.setdefault(shorter, []).append(f"more than {flops(f.ends[-1].total)}")
    if unknown:
        there = [f"of {arm} with {' or '.join(totals)}" for arm, totals in unknown.items()]
        yield f"There is no run {', nor '.join(there)}."


def _apart(f: ComputeFrontier) -> Iterator[str]:
    """Yield the costs of curves that do not overlap, their difference there, and how to make them meet."""
    arm_first = f.arm_range[1] < f.baseline_range[0]
    cheap, dear = (f.arm, f.baseline) if arm_first else (f.baseline, f.arm)
    most, least = (f.arm_range[1], f.baseline_range[0]) if arm_first else (f.baseline_range[1], f.arm_range[0])
    yield f"{dear} costs at least {flops(least)}, and {cheap} was run with at most {flops(most)}."
    assert f.gap is not None
    yield f"The difference between these two is {_points(f.gap)}, n = {f.seeds}."
    if f.enough is not None:
        yield f"Their curves would meet with a multiple of at least {_rounded_up(f.enough):g} in compute."


def _rounded_up(number: float) -> float:
    """Return a number above 0, rounded up to three digits."""
    digit = 10.0 ** (math.floor(math.log10(number)) - 2)
    return math.ceil(number / digit) * digit


def points_of_runs(results: Results) -> list[dict[str, Any]]:
    """Return cost and accuracy of each arm, label budget and multiple of the steps, as means over its seeds.

    There are none in a comparison with a single multiple, whose costs are in a table of their own.
    """
    if len(results.comparison.compute) < 2:
        return []
    runs, rows = results.runs_by_compute.dropna(subset="test_accuracy"), []
    for labels, of_budget in runs.groupby("labels"):
        for arm, of_arm in of_budget.groupby("arm", sort=False):
            for multiple, group in of_arm.groupby("compute"):
                rows.append({"arm": arm, "labels": labels, "compute": multiple, **_point(group, results)})
    return rows


def _point(runs: pd.DataFrame, results: Results) -> dict[str, Any]:
    """Return cost and accuracy of the runs of one arm, label budget and multiple."""
    means = {}
    for unit in ("flops", "seconds"):
        before, after = (float(runs[f"{part}_{unit}"].mean()) for part in ("pretrain", "finetune"))
        means[f"total_{unit}"] = before + after
        means[f"shared_{unit}"] = before / results.comparison.shared_by + after
    return {**means, **asdict(accuracy_estimate(runs))}


def accuracy_estimate(runs: pd.DataFrame) -> Estimate:
    """Return the accuracy of runs of one kind, with an interval that holds for new images if predictions were kept."""
    return estimate(runs["test_accuracy"], by_image(runs["correct"]))


def estimates(values: np.ndarray, weights: np.ndarray) -> list[Estimate]:
    """Return the estimate of each weighted sum of runs, with values (n, m, k) and weights (t, k)."""
    return [as_estimate(each) for each in moments(values).combined(weights)]


def table_of_runs(results: Results, points: Sequence[dict[str, Any]]) -> Table:
    """Return the simplest answer: what each run cost, and how accurate it was."""
    shared_by = results.comparison.shared_by
    also = [] if shared_by == 1 else [f"shared by {shared_by:,}"]
    heads = ["arm", "labels", "steps", "n", "test", "95% interval", "compute", *also, "time", *also]
    rows = []
    for p in points:
        e = Estimate(p["n"], p["mean"], p["low"], p["high"], p["new_images"])
        cells = [p["arm"], f"{p['labels']:,}", f"x {p['compute']:g}", str(e.n), f"{100 * e.mean:.2f}"]
        cells += [interval(*claimed(e)), flops(p["total_flops"]), *([flops(p["shared_flops"])] if also else [])]
        rows.append([*cells, seconds(p["total_seconds"]), *([seconds(p["shared_seconds"])] if also else [])])
    return Table(heads, rows)


def section(results: Results, frontiers: Sequence[ComputeFrontier]) -> dict[str, Any]:
    """Return the sentences and the table of the report's section; an empty one with a single multiple of the steps."""
    main = results.comparison.main_arm
    return {
        "sentences": [sentence(f) for f in frontiers if f.arm == main],
        "others": [sentence(f) for f in frontiers if f.arm != main],
        "table": table_of_runs(results, points_of_runs(results)),
    }


def compute_as_json(results: Results, frontiers: Sequence[ComputeFrontier]) -> dict[str, Any]:
    """Return the points and the verdicts as plain values for results.json, where NaN is null."""
    verdicts = [
        {**asdict(f), "verdict": f.verdict, "bounds": f.bounds if f.ends else None, "sentence": sentence(f)}
        for f in frontiers
    ]
    return {"points": _plain(points_of_runs(results)), "frontiers": _plain(verdicts)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compute_paragraphs(comparison: Comparison) -> list[str]:
    """Return the paragraphs on total compute for the methods text."""
    part = f", or in part where {comparison.shared_by:,} trainings share one pretraining"
    shared, uncorrected = (part, " Nothing is corrected for the two charges.") if comparison.shared_by > 1 else ("", "")
    multiples = enumeration([f"{c:g}" for c in sorted(comparison.compute)])
    tuned = comparison.tuning.candidates()
    settings = "The settings that tuning chose for the recipe's own steps" if tuned else "The settings of the recipe"
    return [
        f"Arms that are trained in steps ran with {multiples} times the steps of their recipe, each in a run of its "
        f"own, over which the whole schedule is stretched. {settings} hold for every multiple. Floating-point "
        "operations are counted, not measured: those of convolutions and matrix products, forward and backward, a "
        "multiply-add as two. Trials and validation are not counted. The total compute of a run is that of fine-tuning "
        f"and of pretraining, which is charged in full{shared}. Costs are means over seeds.",
        "Between its multiples, the accuracy of an arm is interpolated linearly in the logarithm of the compute of "
        "fine-tuning, seed by seed. Nothing is extrapolated. At equal total compute, arms are compared by paired "
        "differences, and intervals hold for new seeds and new test images where the runs kept their predictions. A "
        "verdict rests on the least and the most compute that both arms were run with, corrected by Holm's method "
        "over these two and the label budgets. The interval for where two curves cross holds every compute with a "
        "difference whose 95% interval has 0 in it. It needs no correction, since only the test at the crossing itself "
        f"could leave it out.{uncorrected}",
    ]


def other_steps(comparison: Comparison) -> list[str]:
    """Say what the settings of runs with more or fewer steps rest on."""
    if len(comparison.compute) < 2:
        return []
    chosen = "tuned" if comparison.tuning.candidates() else "chosen"
    return [
        f"The settings were {chosen} for the recipe's own steps. With other multiples of them, another learning rate "
        "might be better, and not equally so for every arm."
    ]


def overlapping(frontiers: Sequence[ComputeFrontier], comparison: Comparison) -> bool:
    """Return whether the main arm, charged in full, was compared at equal compute at every label budget."""
    of_main = [f for f in frontiers if f.arm == comparison.main_arm and f.shared_by < 2]
    return bool(of_main) and all(f.ends for f in of_main)
