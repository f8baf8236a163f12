"""The report of a comparison, a pure function of its folder."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jinja2

from pretrain.comparison.plan import FIGURES
from pretrain.comparison.tasks import PretrainingTask
from pretrain.comparison.verdicts import as_json
from pretrain.errors import DamagedFileError, UserError
from pretrain.pictures.drawing import legible, own_style
from pretrain.reporting import compute_text, plotting, tables
from pretrain.reporting.caveats import caveats
from pretrain.reporting.comparison_figures import Drawing, Part
from pretrain.reporting.comparison_results import COLUMNS, Results, read_results
from pretrain.reporting.findings import Findings, findings_of
from pretrain.reporting.headline import headline, label_efficiency_sentences
from pretrain.reporting.markdown_text import as_markdown, code_block, table_row
from pretrain.reporting.methods_text import methods
from pretrain.reporting.report_figures import draw
from pretrain.reporting.seed_planning_text import how_many_seeds, seeds_as_json
from pretrain.runs.atomic_files import write_text
from pretrain.runs.run_folder import RunFolder


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
    found = findings_of(read_results(out))
    into = Path(out) if into is None or Path(into).resolve() == Path(out).resolve() else open_folder(into)
    _write_tables(found, into)
    page = _page(found) | {"drawings": export_drawings(draw(found), into), "pictures": _pictures(found.results)}
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


def _write_tables(found: Findings, into: Path) -> None:
    results = found.results
    write_text(into / "results.csv", results.runs_by_compute.to_csv(index=False, columns=list(COLUMNS)))
    values = as_json(results.runs, found.paired, found.efficiencies) | {
        "seeds": seeds_as_json(results),
        "classes": found.predictions.rows(),
        "compute": compute_text.compute_as_json(results, found.frontiers),
    }
    write_text(into / "results.json", json.dumps(values, indent=2) + "\n")
    for name, table in (("trials", results.trials), ("probes", results.probes)):
        if len(table):
            write_text(into / f"{name}.csv", table.to_csv(index=False))
        else:
            (into / f"{name}.csv").unlink(missing_ok=True)


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


def _page(found: Findings) -> dict[str, Any]:
    """Return what both templates show, except the figures."""
    results, comparison, main = found.results, found.results.comparison, found.results.comparison.main_arm
    paired, matched, frontiers = found.paired, found.matched, found.frontiers
    of_main = [c for c in paired if c.arm == main]
    return {
        "title": f"Did pretraining help? {comparison.stack.name} on {comparison.data.name}",
        "headline": headline(paired, matched, comparison) + compute_text.clause(frontiers, comparison),
        "sentences": [c.sentence() for c in [*of_main, *matched]],
        "others": [c.sentence() for c in paired if c.arm != main],
        "label_efficiency": label_efficiency_sentences(found.efficiencies, comparison),
        "caveats": caveats(results, paired, matched, frontiers),
        "how_many_seeds": how_many_seeds(results, paired),
        "progress": progress(results),
        "failures": results.failures,
        "accuracies": tables.accuracies(results.runs),
        "paired": tables.paired_differences(paired),
        "new_images": any(c.difference.new_images for c in paired),
        "labels": tables.label_efficiency_table(found.efficiencies),
        "classes": found.predictions.about_classes(),
        "gallery": found.predictions.about_images(),
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
    none = "No run is complete yet. " if not len(results.runs_by_compute) else ""
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
