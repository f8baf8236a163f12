"""The report of a comparison: a pure function of what its folder holds."""

import base64
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from pretrain import figures
from pretrain.budgets import labels_needed
from pretrain.errors import UserError
from pretrain.grid import Cell, Pretraining, cells
from pretrain.runs import Config, RunFolder, flatten, write_text
from pretrain.statistics import Comparison, arm_estimates, as_json, compare_arms

COLUMNS = (
    "arm",
    "init",
    "stack",
    "labels",
    "seed",
    "val_accuracy",
    "test_accuracy",
    "pretrain_seconds",
    "finetune_seconds",
    "pretrain_flops",
    "finetune_flops",
    "images_per_second",
    "steps",
    "parameters",
)


@dataclass(frozen=True)
class Report:
    """Where the report is, and what it says first."""

    path: Path
    headline: str


def write_report(out: str | Path) -> Report:
    """Write results.csv, results.json, report.html and report.md of the comparison in `out`.

    Raises
    ------
    UserError
        When the folder holds no comparison, or none of its runs is complete.
    """
    out = Path(out)
    folder = RunFolder(out)
    config = folder.config()
    if "arms" not in config:
        raise UserError(f"{out} holds a run, but not a comparison.")
    grid = list(cells(config))
    runs = {cell: RunFolder(cell.folder(out)) for cell in grid}
    complete = {cell: summary for cell, run in runs.items() if (summary := run.summary())}
    if not complete:
        reason = "".join(f" Failed: {line}" for line in _failures(runs)[:1])
        raise UserError(f"{out}: none of the {len(grid)} runs of this comparison is complete.{reason}")
    results = pd.DataFrame([{column: s[column] for column in COLUMNS} for s in complete.values()])
    comparisons = compare_arms(results, config["baseline"])
    facts = {
        "config": config,
        "environment": json.loads((out / "env.json").read_text()),
        "results": results,
        "comparisons": comparisons,
        "expected": len(grid),
        "failures": _failures(runs),
    }
    write_text(out / "results.csv", results.to_csv(index=False))
    needed = labels_needed(results, config["baseline"])
    write_text(out / "results.json", json.dumps(as_json(results, comparisons, needed), indent=2) + "\n")
    page = _page(facts)
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("pretrain"),
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    write_text(out / "report.md", templates.get_template("report.md.j2").render(page))
    drawn = {"figures": _figures(facts, complete, out), "pictures": _pictures(out, config)}
    write_text(out / "report.html", templates.get_template("report.html.j2").render(page | drawn))
    return Report(out / "report.html", page["headline"])


def _failures(runs: dict[Cell, RunFolder]) -> list[str]:
    """Return a line for each run that failed."""
    lines = []
    for cell, run in runs.items():
        note = run.path / "failure.txt"
        if note.exists() and run.summary() is None:
            lines.append(f"{cell}: {note.read_text().strip()}")
    return lines


def _page(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what both templates show, apart from figures."""
    config, results = facts["config"], facts["results"]
    comparisons: list[Comparison] = facts["comparisons"]
    return {
        "title": f"Did pretraining help? {config['stack']['name']} on {config['data']['name']}",
        "headline": _headline(comparisons, config),
        "sentences": [c.sentence() for c in comparisons],
        "accuracies": _accuracy_rows(results),
        "paired": [_paired_row(c) for c in comparisons],
        "cost": _cost_rows(results),
        "complete": len(results),
        "expected": facts["expected"],
        "failures": facts["failures"],
        "seeds": config["seeds"],
        "baseline": config["baseline"],
        "arms": [f"{arm} ({_settings(changed)})" for arm, changed in config["arms"].items()],
        "command": facts["environment"].get("command", ""),
        "environment": facts["environment"],
        "configuration": yaml.safe_dump(config, sort_keys=False),
    }


def _settings(changed: Config | None) -> str:
    """Return what an arm changes, as on a command line."""
    return ", ".join(f"{key}={value}" for key, value in flatten(changed or {}).items() if key) or "as configured"


def _headline(comparisons: list[Comparison], config: Config) -> str:
    """Return the verdict on the first arm that is pretrained and not the baseline, over all budgets."""
    pretrained = [arm for arm, changed in config["arms"].items() if (changed or {}).get("init") == "pretrained"]
    first = next((arm for arm in pretrained if arm != config["baseline"]), None)
    chosen = [c for c in comparisons if c.arm == first]
    if not chosen:
        return "No pretrained arm has been compared with the baseline yet."
    verdicts: dict[str, list[str]] = defaultdict(list)
    for c in chosen:
        verdicts[c.verdict].append(f"{c.labels:,} labels ({100 * c.difference.mean:+.1f} points)")
    said = {
        "helps": "helped with {}",
        "hurts": "hurt with {}",
        "no detectable difference": "made no detectable difference with {}",
        "too few seeds": "has too few seeds for a claim with {}",
    }
    phrases = [said[v].format(", ".join(where)) for v, where in verdicts.items()]
    return f"Compared with {config['baseline']}, pretraining {'; it '.join(phrases)}."


def _accuracy_rows(results: pd.DataFrame) -> list[list[str]]:
    return [
        [
            arm,
            f"{labels:,}",
            str(e.n),
            f"{100 * e.mean:.2f}",
            f"{100 * e.low:.2f} to {100 * e.high:.2f}" if e.n > 1 else "",
        ]
        for (arm, labels), e in arm_estimates(results).items()
    ]


def _paired_row(c: Comparison) -> list[str]:
    d = c.difference
    interval = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}" if d.n > 1 else ""
    return [
        c.arm,
        f"{c.labels:,}",
        str(d.n),
        f"{100 * d.mean:+.2f}",
        interval,
        f"{c.p:.2g}",
        f"{c.p_corrected:.2g}",
        c.verdict,
    ]


def _cost_rows(results: pd.DataFrame) -> list[list[str]]:
    means = results.groupby(["arm", "labels"], sort=False)[
        ["pretrain_seconds", "finetune_seconds", "images_per_second"]
    ].mean()
    return [
        [str(arm), f"{labels:,}", *(f"{value:,.1f}" for value in row)]
        for (arm, labels), row in zip(means.index, means.to_numpy(), strict=True)
    ]


def _figures(facts: dict[str, Any], complete: dict[Cell, Config], out: Path) -> list[dict[str, str]]:
    results, comparisons, arms = facts["results"], facts["comparisons"], list(facts["config"]["arms"])
    drawn = [
        (
            figures.accuracy(results, arms),
            "Test accuracy: mean over seeds with its 95% interval"
            + ("; each dot is a run." if results["labels"].nunique() == 1 else "."),
        )
    ]
    if comparisons:
        drawn.append(
            (
                figures.differences(results, comparisons, arms),
                "Paired differences: each dot is a seed, the bar the mean with its 95% interval.",
            )
        )
    if curves := _curves(complete, out):
        drawn.append((figures.learning_curves(curves, arms), "Validation accuracy while training, mean of the seeds."))
    return [{"svg": figures.to_svg(figure), "caption": caption} for figure, caption in drawn]


def _curves(complete: dict[Cell, Config], out: Path) -> dict[tuple[str, int], pd.DataFrame]:
    """Return for each arm and budget a table of validation accuracy, a row a step and a column a seed."""
    series: dict[tuple[str, int], dict[int, pd.Series]] = defaultdict(dict)
    for cell, summary in complete.items():
        rows = [row for row in RunFolder(cell.folder(out)).metrics() if "val_accuracy" in row]
        if rows:
            by_step = {row["step"]: row["val_accuracy"] for row in rows}
            series[cell.arm, summary["labels"]][cell.seed] = pd.Series(by_step)
    return {key: pd.DataFrame(columns) for key, columns in series.items()}


def _pictures(out: Path, config: Config) -> list[dict[str, str]]:
    """Return the pictures of the first seed's pretraining, inlined."""
    folder = Pretraining(config["seeds"][0]).folder(out)
    return [
        {
            "name": file.stem.replace("-", " ").replace("stage", "stage "),
            "data": base64.b64encode(file.read_bytes()).decode(),
        }
        for file in sorted(folder.glob("stage*.png"))
    ]
