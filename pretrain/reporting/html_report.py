"""The report of a comparison, a pure function of its folder."""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import jinja2
from matplotlib.figure import Figure

from pretrain.comparison.compute_frontier import ComputeFrontier
from pretrain.comparison.label_efficiency import LabelEfficiency, label_efficiency
from pretrain.comparison.plan import FIGURES
from pretrain.comparison.tasks import PretrainingTask
from pretrain.comparison.verdicts import PairedComparison, as_json, compare_arms
from pretrain.errors import DamagedFileError, UserError
from pretrain.pictures.drawing import legible, own_style
from pretrain.reporting import (
    attribution_figures,
    comparison_figures,
    compute_figures,
    compute_text,
    plotting,
    tables,
)
from pretrain.reporting.caveats import caveats
from pretrain.reporting.comparison_figures import Drawing, Part, file_name
from pretrain.reporting.comparison_results import COLUMNS, Results, read_results
from pretrain.reporting.headline import against_matched, headline, label_efficiency_sentences
from pretrain.reporting.markdown_text import as_markdown, code_block, table_row
from pretrain.reporting.methods_text import methods
from pretrain.reporting.prediction_differences import PredictionDifferences, prediction_differences
from pretrain.reporting.seed_planning_text import how_many_seeds, seeds_as_json
from pretrain.runs.atomic_files import write_text
from pretrain.runs.run_folder import RunFolder

LABELS_SAVED_CAPTION = (
    "Labels that the baseline needs for the same accuracy, with 95% intervals. A ring marks the labels of the arm. An "
    "arrowhead points beyond the budgets that were run, where intervals are cut off as well."
)


@dataclass(frozen=True)
class Report:
    """Where the report is, with its headline."""

    path: Path
    headline: str


def write_report(out: str | Path, into: str | Path | None = None) -> Report:
    """Write the report of the comparison in `out`, as far as it has run.

    The report consists of report.html (a self-contained file), report.md, results.csv (one row for each run),
    results.json (the statistics), trials.csv and probes.csv where there are any, and each figure as PNG and SVG in
    figures/.

    Parameters
    ----------
    out : str or Path
        Folder of the comparison.
    into : str or Path, optional
        Folder of the report; None for the folder of the comparison.

    Raises
    ------
    UserError
        When `out` holds no comparison.
    """
    results = read_results(out)
    into = Path(out) if into is None or Path(into).resolve() == Path(out).resolve() else open_folder(into)
    baseline = results.comparison.baseline
    paired = compare_arms(results.runs, baseline, results.comparison.looks)
    efficiencies, predictions = label_efficiency(results.runs, baseline), prediction_differences(results)
    frontiers = compute_text.frontiers_of(results)
    _write_tables(results, paired, efficiencies, predictions, frontiers, into)
    drawn = chain(
        draw(results, paired, efficiencies), predictions.drawings(), compute_figures.draw_compute(results, frontiers)
    )
    page = _page(results, paired, efficiencies, frontiers)
    page |= {"drawings": export_drawings(drawn, into), "pictures": _pictures(results)}
    page |= {"classes": predictions.about_classes(), "gallery": predictions.about_images()}
    render("report", page, into)
    return Report(into / "report.html", page["headline"])


def open_folder(path: str | Path) -> Path:
    """Return a folder that holds a report and nothing else, made when missing.

    Raises
    ------
    UserError
        When it holds anything but a report.
    """
    folder = Path(path)
    there = {each.name for each in folder.iterdir() if each.name[0] != "."} if folder.is_dir() else set()
    if folder.is_file() or "config.yaml" in there or (there and "results.csv" not in there):
        raise UserError(f"out={path} holds something other than a report: give another out=.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_tables(
    results: Results,
    paired: list[PairedComparison],
    efficiencies: list[LabelEfficiency],
    predictions: PredictionDifferences,
    frontiers: list[ComputeFrontier],
    into: Path,
) -> None:
    write_text(into / "results.csv", results.runs_by_compute.to_csv(index=False, columns=list(COLUMNS)))
    values = as_json(results.runs, paired, efficiencies)
    values |= {"seeds": seeds_as_json(results), "classes": predictions.rows()}
    values |= {"compute": compute_text.compute_as_json(results, frontiers)}
    write_text(into / "results.json", json.dumps(values, indent=2) + "\n")
    for name, table in (("trials", results.trials), ("probes", results.probes)):
        if len(table):
            write_text(into / f"{name}.csv", table.to_csv(index=False))
        else:
            (into / f"{name}.csv").unlink(missing_ok=True)


def draw(results: Results, paired: list[PairedComparison], efficiencies: list[LabelEfficiency]) -> Iterator[Drawing]:
    """Draw every figure that there is data for."""
    looks = plotting.styles(results.comparison.arms, results.comparison.baseline)
    drawn = results.runs["seed"].nunique() >= plotting.INTERVAL_FROM
    interval = f"mean{' and 95% interval for new seeds' if drawn else ''}"
    with_images = drawn and any(c.difference.new_images for c in paired)
    both = f"{interval}{', and for new seeds and images as a thin line' if with_images else ''}"
    shown = comparison_figures.panels(results.comparison)
    main = next(iter(shown.values()))
    for title, arms in shown.items():
        figure = comparison_figures.draw_accuracy(results.runs, arms, looks)
        yield from _drawing("results", f"accuracy {title}", f"Test accuracy, {title}: {interval}.", figure)
        figure = comparison_figures.draw_differences(results.runs, paired, arms, looks)
        caption = f"Paired differences, {title}: {both}. A dot is a seed."
        yield from _drawing("results", f"differences {title}", caption, figure)
    figure = comparison_figures.draw_labels_saved(efficiencies, main, looks)
    yield from _drawing("results", "labels saved", LABELS_SAVED_CAPTION, figure)
    for labels, curves in results.curves.groupby("labels"):
        figure = comparison_figures.draw_accuracy_over_time(curves, main, looks)
        caption = f"Validation accuracy over time, {labels:,} labels: {interval}. Pretraining ends at a dashed line."
        yield from _drawing("time", f"time {labels} labels", caption, figure)
    yield from _attribution(results, paired, interval, both)


def _attribution(results: Results, paired: list[PairedComparison], interval: str, both: str) -> Iterator[Drawing]:
    """Draw the figures that attribute a gain, with the words for one interval and for both."""
    for labels, probes in results.probes.groupby("labels"):
        caption = f"Test accuracy of linear probes at each depth, {labels:,} labels: {interval}."
        yield from _drawing("attribution", f"probes {labels} labels", caption, attribution_figures.probe_depths(probes))
    gain = f"paired by seed: {both}."
    caption, figure = "Gain by the number of pretrained layers kept", attribution_figures.layers_kept(results, paired)
    yield from _drawing("attribution", "layers kept", f"{caption}, {gain}", figure)
    caption, figure = "Gain by the number of unlabelled images", attribution_figures.unlabelled_images(results, paired)
    yield from _drawing("attribution", "unlabelled images", f"{caption}, {gain}", figure)


def _drawing(part: Part, name: str, caption: str, figure: Figure | None) -> Iterator[Drawing]:
    """Yield a figure with its name and caption, or nothing where there is no figure."""
    if figure is not None:
        yield Drawing(part, file_name(name), caption, figure)


def export_drawings(drawings: Iterable[Drawing], into: Path) -> dict[str, list[dict[str, str]]]:
    """Write figures as PNG and SVG, delete those of a former report, and return them for the parts of a page."""
    shown: dict[str, list[dict[str, str]]] = {part: [] for part in get_args(Part)}
    with own_style():
        for drawing in drawings:
            svg = plotting.save_svg_and_png(drawing.figure, into / "figures" / drawing.name)
            entry = {"svg": plotting.inline(svg, drawing.name.replace("-", " ")), "caption": drawing.caption}
            shown[drawing.part].append({**entry, "name": drawing.name})
    written = {entry["name"] for part in shown.values() for entry in part}
    for old in [file for pattern in FIGURES for file in into.glob(pattern) if file.stem not in written]:
        old.unlink(missing_ok=True)
    return shown


def render(template: str, page: dict[str, Any], into: Path) -> None:
    """Write report.html and report.md from the templates of this name."""
    for suffix in ("html", "md"):
        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("pretrain.reporting"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            finalize=as_markdown if suffix == "md" else None,
        )
        templates.filters |= {"table_row": table_row, "code_block": code_block}
        text = templates.get_template(f"{template}.{suffix}.j2").render(page)
        write_text(into / f"report.{suffix}", legible(text))


def _page(
    results: Results,
    paired: list[PairedComparison],
    efficiencies: list[LabelEfficiency],
    frontiers: list[ComputeFrontier],
) -> dict[str, Any]:
    """Return what both templates show, except the figures."""
    comparison, main = results.comparison, results.comparison.main_arm
    of_main, matched = [c for c in paired if c.arm == main], against_matched(results)
    return {
        "title": f"Did pretraining help? {comparison.stack.name} on {comparison.data.name}",
        "headline": headline(paired, matched, comparison) + compute_text.clause(frontiers, comparison),
        "sentences": [c.sentence() for c in [*of_main, *matched]],
        "others": [c.sentence() for c in paired if c.arm != main],
        "label_efficiency": label_efficiency_sentences(efficiencies, comparison),
        "caveats": caveats(results, paired, matched, frontiers),
        "how_many_seeds": how_many_seeds(results, paired),
        "progress": progress(results),
        "failures": results.failures,
        "accuracies": tables.accuracies(results.runs),
        "paired": tables.paired_differences(paired),
        "new_images": any(c.difference.new_images for c in paired),
        "labels": tables.label_efficiency_table(efficiencies),
        "compute": compute_text.section(results, frontiers),
        "cost": tables.cost(results.runs),
        "searched": tables.seconds(results.trials["seconds"].astype(float).sum()),
        "trials": tables.trials(results),
        "methods": methods(results),
        "baseline": comparison.baseline,
        "seeds": comparison.seeds_in_use,
        "command": results.environment.get("command", ""),
        "environment": results.environment,
        "configuration": results.configuration,
    }


def progress(results: Results) -> str:
    """Return how much of a comparison is complete, in sentences; nothing once all of it is."""
    if all(complete == total for complete, total in results.progress.values()):
        return ""
    parts = [f"{complete:,} of {total:,} {kind}" for kind, (complete, total) in results.progress.items()]
    none = "No run is complete yet. " if not len(results.runs) else ""
    return f"{none}{', '.join(parts)} are complete. Run the same command again to complete the rest."


def _pictures(results: Results) -> list[dict[str, str]]:
    """Return the pictures of the pretraining of the first seed as data for the page; none if its files are damaged."""
    folder = PretrainingTask(results.comparison.seeds_in_use[0]).folder(results.path)
    try:
        RunFolder(folder).check()
    except DamagedFileError:
        # It is named among the failures.
        return []
    return [
        {
            "name": file.stem.replace("-", " ").replace("stage", "stage "),
            "data": base64.b64encode(file.read_bytes()).decode(),
        }
        for file in sorted(folder.glob("stage*.png"))
    ]
