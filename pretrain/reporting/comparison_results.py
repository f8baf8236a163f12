"""The results in the folder of a comparison: tables of runs, trials, probes, curves and pretraining, and failures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pretrain.comparison.plan import Comparison
from pretrain.comparison.seed_cost import seconds_of_a_further_seed
from pretrain.comparison.stopping_rule import reached
from pretrain.comparison.tasks import FinetuningTask, PretrainingTask, ProbingTask, Task, tasks
from pretrain.errors import DamagedFileError, UserError
from pretrain.evaluation.kept_predictions import KeptPredictions, read_predictions
from pretrain.runs.environment import deciding_changes
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.sealed_files import read_json
from pretrain.runs.typed_settings import typed

COLUMNS = (
    "arm",
    "init",
    "stack",
    "labels",
    "seed",
    "compute",
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
class Results:
    """The results of a comparison as far as it has run.

    Attributes
    ----------
    path : Path
        Folder of the comparison.
    comparison : Comparison
        What was compared; with ``seeds=auto`` at the look that it has come to.
    configuration : str
        Text of config.yaml.
    environment : dict
        Last environment of the comparison.
    changed_environments : list of str
        One line for each run that went on in another environment, which may have changed its bits.
    labelled_digest : str
        Digest of the labelled images and the test images.
    runs : DataFrame
        One row for each complete run with the steps of its recipe, with the columns `COLUMNS`, and two that are None
        where a run kept no predictions: ``correct``, whether each test image was classified correctly, (N,), bool, and
        ``predicted``, the class that it was given, (N,), int.
    runs_by_compute : DataFrame
        The same for each complete run, with whatever multiple of those steps.
    trials : DataFrame
        One row for each trial that ended: arm, labels, seed, trial, each tuned setting, val_accuracy, seconds, chosen,
        failure.
    probes : DataFrame
        One row for each depth of a complete probe: init, labels, seed, depth, features, C, val_accuracy, test_accuracy.
    curves : DataFrame
        One row for each validation of a complete run: arm, labels, seed, step, pretrain_seconds, seconds (including
        pretrain_seconds), val_accuracy.
    stages : DataFrame
        One row for each complete pretraining: num_unlabelled, seed, unlabelled, seconds, flops.
    progress : dict of str to (int, int)
        Number of complete tasks and number of all tasks, for runs, trials, pretrainings and probes.
    failures : list of str
        One line for each reason, with all tasks that failed for it.
    leakage : dict, optional
        Content of leakage.json; None where the unlabelled pool was not searched.
    further_seed_seconds : float, optional
        Seconds of training that one more seed would take; None while they are not known.
    test_images, classes : int, optional
        Number of test images and of classes; None before the first run is complete.
    class_names : tuple of str
        Names of the classes, in the order of their numbers; none before the first run is complete.
    test_labels : ndarray, (N,), int, optional
        Class of each test image; None where no run kept its predictions.
    """

    path: Path
    comparison: Comparison
    configuration: str
    environment: dict[str, Any]
    changed_environments: list[str]
    labelled_digest: str
    runs: pd.DataFrame
    runs_by_compute: pd.DataFrame
    trials: pd.DataFrame
    probes: pd.DataFrame
    curves: pd.DataFrame
    stages: pd.DataFrame
    progress: dict[str, tuple[int, int]]
    failures: list[str]
    leakage: dict[str, Any] | None
    further_seed_seconds: float | None
    test_images: int | None
    classes: int | None
    class_names: tuple[str, ...]
    test_labels: np.ndarray | None


def read_results(out: str | Path) -> Results:
    """Read the results that the comparison in `out` has so far.

    Raises
    ------
    UserError
        When the folder holds no comparison.
    """
    out = Path(out)
    comparison, digests = read_comparison(out)
    comparison = reached(comparison, out)
    everything = list(tasks(comparison))
    done, predictions, damaged = _summaries(everything, out, digests["labelled_digest"])
    runs = {task: summary for task, summary in done.items() if isinstance(task, FinetuningTask) and task.trial is None}
    all_runs, test_labels = _runs(runs, predictions)
    first = next(iter(runs.values()), {})
    leakage = out / "leakage.json"
    return Results(
        path=out,
        comparison=comparison,
        configuration=(out / "config.yaml").read_text(encoding="utf-8"),
        environment=(RunFolder(out).environments() or [{}])[-1],
        changed_environments=_changed_environments(done, out),
        labelled_digest=digests["labelled_digest"],
        runs=all_runs[all_runs["compute"] == 1].reset_index(drop=True),
        runs_by_compute=all_runs,
        trials=_trials(everything, done, comparison),
        probes=_probes(done),
        curves=_curves(runs, out),
        stages=_stages(done),
        progress=_progress(everything, done),
        failures=_failures(everything, done, damaged, out),
        leakage=read_json(leakage) if leakage.exists() else None,
        further_seed_seconds=seconds_of_a_further_seed(comparison, done),
        test_images=sum(map(sum, first["confusion"])) if "confusion" in first else None,
        classes=len(first["confusion"]) if "confusion" in first else None,
        class_names=tuple(first.get("per_class_accuracy", ())),
        test_labels=test_labels,
    )


def _summaries(
    everything: list[Task], out: Path, images_digest: str
) -> tuple[dict[Task, dict[str, Any]], dict[Task, KeptPredictions], dict[Task, str]]:
    """Return the summaries of the complete runs, what they predicted, and the reasons why others do not count."""
    done, predictions, damaged = {}, {}, {}
    for task in everything:
        folder = RunFolder(task.folder(out))
        try:
            if not (summary := folder.accepted()):
                continue
            folder.check()
            kept = read_predictions(folder)
        except DamagedFileError as error:
            damaged[task] = str(error)
            continue
        if kept and kept.images_digest != images_digest:
            damaged[task] = "it judged other test images than those of the comparison: run the same command again"
            continue
        done[task] = summary
        if kept:
            predictions[task] = kept
    return done, predictions, damaged


def _runs(
    runs: Mapping[FinetuningTask, dict[str, Any]], predictions: Mapping[Task, KeptPredictions]
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Return a row for each complete run, with what it kept of the test images, and the classes of these."""
    rows, test_labels = [], None
    for task, summary in runs.items():
        own: dict[str, Any] = {"compute": task.compute, "correct": None, "predicted": None}
        if kept := predictions.get(task):
            test_labels = kept.labels
            own |= {"correct": kept.correct, "predicted": kept.predicted}
        rows.append({**{column: summary[column] for column in COLUMNS if column not in own}, **own})
    return pd.DataFrame(rows, columns=[*COLUMNS, "correct", "predicted"]), test_labels


def _changed_environments(done: Iterable[Task], out: Path) -> list[str]:
    lines = []
    for task in done:
        sittings = RunFolder(task.folder(out)).environments()
        changes = [change for pair in pairwise(sittings) for change in deciding_changes(*pair)]
        lines += [f"{task}: {'; '.join(changes)}"] if changes else []
    return lines


def read_comparison(out: Path) -> tuple[Comparison, dict[str, str]]:
    """Return the comparison in a folder, wherever the folder is now, with the digests of its data.

    Raises
    ------
    UserError
        When the folder holds no comparison.
    """
    config = RunFolder(out).config()
    if "arms" not in config:
        raise UserError(f"{out} holds a run, but not a comparison.")
    digests = {key: config.pop(key) for key in ("data_digest", "labelled_digest")}
    # The call that wrote the folder may have overwritten another comparison; what is there now counts.
    return typed(Comparison, {**config, "out": str(out), "overwrite": False}), digests


def _kind(task: Task) -> str:
    """Return the name of a kind of task in the progress of a comparison."""
    if isinstance(task, FinetuningTask):
        return "runs" if task.trial is None else "trials"
    return "probes" if isinstance(task, ProbingTask) else "pretrainings"


def _progress(everything: list[Task], done: Mapping[Task, Any]) -> dict[str, tuple[int, int]]:
    counts = dict.fromkeys(("runs", "trials", "pretrainings", "probes"), (0, 0))
    for task in everything:
        complete, total = counts[_kind(task)]
        counts[_kind(task)] = complete + (task in done), total + 1
    return {kind: (complete, total) for kind, (complete, total) in counts.items() if total}


def _failures(everything: list[Task], done: Mapping[Task, Any], damaged: Mapping[Task, str], out: Path) -> list[str]:
    """Return one line for each reason, since a failed pretraining fails all runs that need it."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for task in everything:
        if task not in done and (reason := damaged.get(task) or RunFolder(task.folder(out)).failure()):
            reasons[reason].append(str(task))
    return [f"{'; '.join(failed)}: {reason}" for reason, failed in reasons.items()]


def _trials(everything: list[Task], done: Mapping[Task, Any], comparison: Comparison) -> pd.DataFrame:
    """Return a row for each trial that ended, arm by arm. A choice is marked once all trials of its arm have ended."""
    rows = []
    candidates, out = comparison.tuning.candidates(), Path(comparison.out)
    settings = list(dict.fromkeys(key for candidate in candidates for key in candidate))
    groups: dict[tuple[str, Any], list[FinetuningTask]] = defaultdict(list)
    for task in everything:
        if isinstance(task, FinetuningTask) and task.trial is not None:
            groups[task.arm, task.labels].append(task)
    for cells in groups.values():
        ended = {cell: done.get(cell) or {"failure": RunFolder(cell.folder(out)).failure()} for cell in cells}
        ended = {cell: summary for cell, summary in ended.items() if summary.get("failure", "none") is not None}
        whole = len(ended) == len(cells) and any("val_accuracy" in summary for summary in ended.values())
        chosen = _winner(cells[0], comparison) if whole else None
        for cell, summary in ended.items():
            assert cell.trial is not None
            rows.append(
                {
                    "arm": cell.arm,
                    "labels": summary.get("labels", cell.labels),
                    "seed": cell.seed,
                    "trial": cell.trial + 1,
                    **{key: candidates[cell.trial].get(key) for key in settings},
                    "val_accuracy": summary.get("val_accuracy"),
                    "seconds": summary.get("finetune_seconds"),
                    "chosen": "yes" if cell.trial == chosen else "no",
                    "failure": summary.get("failure"),
                }
            )
    columns = ["arm", "labels", "seed", "trial", *settings, "val_accuracy", "seconds", "chosen", "failure"]
    return pd.DataFrame(rows, columns=columns)


def _winner(task: FinetuningTask, comparison: Comparison) -> int | None:
    try:
        return task.winner(comparison)
    except UserError:
        # No candidate succeeded on every seed.
        return None


def _probes(done: Mapping[Task, dict[str, Any]]) -> pd.DataFrame:
    columns = ["depth", "features", "C", "val_accuracy", "test_accuracy"]
    rows = [
        {"init": task.init, "labels": summary["labels"], "seed": task.seed, **depth}
        for task, summary in done.items()
        if isinstance(task, ProbingTask)
        for depth in summary["depths"]
    ]
    return pd.DataFrame(rows, columns=["init", "labels", "seed", *columns])


def _curves(runs: Mapping[FinetuningTask, dict[str, Any]], out: Path) -> pd.DataFrame:
    rows = [
        {
            "arm": cell.arm,
            "labels": summary["labels"],
            "seed": cell.seed,
            "step": row["step"],
            "pretrain_seconds": summary["pretrain_seconds"],
            "seconds": summary["pretrain_seconds"] + row["seconds"],
            "val_accuracy": row["val_accuracy"],
        }
        for cell, summary in runs.items()
        if cell.compute == 1
        for row in RunFolder(cell.folder(out)).metrics()
        if "val_accuracy" in row
    ]
    columns = ["arm", "labels", "seed", "step", "pretrain_seconds", "seconds", "val_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def _stages(done: Mapping[Task, dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {
            "num_unlabelled": task.num_unlabelled,
            "seed": task.seed,
            "unlabelled": summary["unlabelled"],
            "seconds": summary["pretrain_seconds"],
            "flops": sum(summary["stage_flops"]),
        }
        for task, summary in done.items()
        if isinstance(task, PretrainingTask)
    ]
    return pd.DataFrame(rows, columns=["num_unlabelled", "seed", "unlabelled", "seconds", "flops"])
