"""A report on several comparisons side by side, for example of the same arms with two stacks."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from pretrain.comparison.label_efficiency import label_efficiency
from pretrain.comparison.paired_differences import SIGNIFICANCE_LEVEL
from pretrain.comparison.verdicts import PairedComparison, as_json, compare_arms
from pretrain.errors import UserError
from pretrain.reporting import comparison_figures, plotting, tables
from pretrain.reporting.caveats import caveats
from pretrain.reporting.comparison_figures import Drawing, file_name
from pretrain.reporting.comparison_results import COLUMNS, Results, read_results
from pretrain.reporting.headline import against_matched, headline
from pretrain.reporting.html_report import Report, export_drawings, open_folder, progress, render
from pretrain.reporting.tables import Table
from pretrain.runs.atomic_files import write_text

# Panels reach this far beyond the lowest and the highest accuracy of any seed.
ACCURACY_MARGIN = 2.0  # points
# The names of arms in the report, by comparison and arm.
Names = Mapping[tuple[str, str], str]


def write_side_by_side(runs: Sequence[str | Path], out: str | Path) -> Report:
    """Write report.html, report.md, results.csv, results.json and figures/ on several comparisons.

    Parameters
    ----------
    runs : sequence of str or Path
        Folders of comparisons. The others are compared with the first.
    out : str or Path
        Folder of the report, which holds nothing else.

    Raises
    ------
    UserError
        When a folder holds no comparison or is named twice, or `out` holds a run.
    """
    paths = [Path(run).resolve() for run in runs]
    if repeated := [path for path, count in Counter(paths).items() if count > 1]:
        raise UserError(f"run={repeated[0]} is given more than once.")
    compared = dict(zip(unique_names(paths), map(read_results, runs), strict=True))
    arms, into = arm_names(compared), open_folder(out)
    frames = {name: _renamed(results.runs, name, arms) for name, results in compared.items()}
    joint = pd.concat(frames.values(), ignore_index=True)
    first, *others = compared
    write_text(into / "results.csv", joint.to_csv(index=False, columns=list(COLUMNS)))
    paired = {
        name: compare_arms(each.runs, each.comparison.baseline, each.comparison.looks)
        for name, each in compared.items()
    }
    values = {name: _values(results, paired[name]) for name, results in compared.items()}
    write_text(into / "results.json", json.dumps(values, indent=2) + "\n")
    matched = {name: against_matched(results) for name, results in compared.items()}
    headlines = {name: headline(paired[name], matched[name], each.comparison) for name, each in compared.items()}
    verdicts = "\n".join(f"{name}: {sentence}" for name, sentence in headlines.items())
    page = {
        "title": f"{', '.join([first, *others[:-1]])} and {others[-1]}",
        "headline": verdicts,
        "comparisons": {name: _about(each, paired[name], matched[name]) for name, each in compared.items()},
        "accuracies": tables.accuracies(joint),
        "between": [_between(compared, (first, other), arms, joint) for other in others],
        "drawings": export_drawings(_draw(compared, arms), into),
    }
    render("side_by_side", page, into)
    return Report(into / "report.html", verdicts)


def _values(results: Results, paired: list[PairedComparison]) -> dict[str, object]:
    return as_json(results.runs, paired, label_efficiency(results.runs, results.comparison.baseline))


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of folders, with as many parent folders as it takes to tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def arm_names(compared: Mapping[str, Results]) -> dict[tuple[str, str], str]:
    """Return the name of each arm in the report, with its comparison where several have an arm of that name."""
    count = Counter(arm for results in compared.values() for arm in results.comparison.arms)
    return {
        (name, arm): f"{name}: {arm}" if count[arm] > 1 else arm
        for name, results in compared.items()
        for arm in results.comparison.arms
    }


def why_unpaired(one: Results, other: Results) -> str | None:
    """Return why the runs of two comparisons cannot be paired by labels and seed, or None where they can."""
    if one.labelled_digest != other.labelled_digest:
        return "their labelled images or their test images differ"
    if {*one.comparison.seeds_in_use} != {*other.comparison.seeds_in_use}:
        return "their seeds differ"
    return None


def welch(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Return the difference of two means with its unpaired 95% interval, NaN for fewer than two values.

    References
    ----------
    Welch (1947), The generalization of Student's problem when several different population variances are involved,
    Biometrika 34.
    """
    if min(len(x), len(y)) < 2:
        return float(x.mean() - y.mean()), np.nan, np.nan
    bounds = stats.ttest_ind(x, y, equal_var=False).confidence_interval(1 - SIGNIFICANCE_LEVEL)
    return float(x.mean() - y.mean()), float(bounds.low), float(bounds.high)


def _renamed(runs: pd.DataFrame, name: str, arms: Names) -> pd.DataFrame:
    return runs.assign(arm=[arms[name, arm] for arm in runs["arm"]])


def _about(results: Results, paired: list[PairedComparison], matched: list[PairedComparison]) -> dict[str, object]:
    """Return what the page says about one comparison alone."""
    comparison, main = results.comparison, results.comparison.main_arm
    return {
        "what": f"{comparison.stack.name} on {comparison.data.name}",
        "sentences": [c.sentence() for c in [*(c for c in paired if c.arm == main), *matched]],
        "caveats": caveats(results, paired, matched),
        "progress": progress(results),
        "command": results.environment.get("command", ""),
    }


def _between(
    compared: Mapping[str, Results], pair: tuple[str, str], arms: Names, joint: pd.DataFrame
) -> dict[str, object]:
    """Return the differences between the arms that two comparisons share, with a note on how they were computed."""
    first, other = pair
    shared = [arm for arm in compared[first].comparison.arms if (other, arm) in arms]
    both = [(arms[first, arm], arms[other, arm]) for arm in shared]
    title = f"{other} against {first} (points)"
    if reason := why_unpaired(compared[first], compared[other]):
        rows = [row for arm in both for row in _unpaired_rows(joint, *arm)]
        heads = ["arm", "against", "labels", "n", "difference", "95% interval"]
        note = f"The runs of {first} and {other} are not paired, since {reason}. Intervals are Welch's, without a test."
        return {"title": title, "note": note, "table": Table(heads, rows, [0, 1])}
    # Of two comparisons, the one with more looks chose how many seeds both have.
    looks = max((compared[name].comparison.looks for name in pair), key=lambda each: len(each.seeds))
    tested = [c for one, two in both for c in compare_arms(joint[joint["arm"].isin([one, two])], one, looks)]
    note = f"The runs of {first} and {other} are paired by labels and seed, on the same images."
    return {"title": title, "note": note, "table": tables.paired_differences(tested)}


def _unpaired_rows(joint: pd.DataFrame, one: str, two: str) -> Iterator[list[str]]:
    x_of, y_of = (dict(iter(joint[joint["arm"] == arm].groupby("labels")["test_accuracy"])) for arm in (two, one))
    for labels in [labels for labels in x_of if labels in y_of]:
        x, y = x_of[labels].dropna(), y_of[labels].dropna()
        mean, low, high = welch(x, y)
        yield [two, one, f"{labels:,}", f"{len(x)}, {len(y)}", f"{100 * mean:+.2f}", tables.interval(low, high, "+")]


def _draw(compared: Mapping[str, Results], arms: Names) -> Iterator[Drawing]:
    """Draw the accuracy of each shared arm, with a line for each comparison, and then of the other arms."""
    runs = pd.concat([results.runs.assign(comparison=name) for name, results in compared.items()], ignore_index=True)
    first = next(iter(compared))
    looks = plotting.styles(compared, first)
    interval = f"mean{' and 95% interval for new seeds' if runs['seed'].nunique() >= plotting.INTERVAL_FROM else ''}"
    shared = dict.fromkeys(arm for (name, arm), called in arms.items() if called != arm)
    seen = 100 * runs.loc[runs["arm"].isin(shared), "test_accuracy"].dropna()
    # The panels share their limits, so that they can be compared.
    limits = (seen.min() - ACCURACY_MARGIN, seen.max() + ACCURACY_MARGIN) if len(seen) else None
    for arm in shared:
        lines = runs[runs["arm"] == arm].assign(arm=lambda of_arm: of_arm["comparison"])
        if found := comparison_figures.draw_accuracy(lines, list(compared), looks, limits):
            found.axes[0].set_title(arm, loc="left", fontsize=11)
            yield Drawing("results", file_name("accuracy", arm), f"Test accuracy of {arm}: {interval}.", found)
    for name, results in compared.items():
        alone = [arm for arm in results.comparison.arms if arm not in shared]
        own = plotting.styles(alone, first)
        for k in range(0, len(alone), comparison_figures.ARMS_PER_PANEL):
            few = alone[k : k + comparison_figures.ARMS_PER_PANEL]
            if found := comparison_figures.draw_accuracy(results.runs, few, own):
                text = f"Test accuracy of the arms that only {name} has: {interval}."
                yield Drawing("results", file_name("accuracy", name.replace("/", "-"), *few), text, found)
