"""How far a comparison with ``seeds=auto`` has come, and whether it goes on: a pure function of its folder.

So all workers decide alike, also those on other computers, and so does a later call. At each look, the comparison goes
on while the interval of the main arm's difference from the baseline is wider than asked at some label budget. The
intervals allow for all looks (`pretrain.comparison.sequential_looks`), so whatever ends it makes no false verdict.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pretrain.comparison.finished_runs import finished_runs
from pretrain.comparison.paired_differences import SEEDS_FOR_A_CLAIM, Estimate
from pretrain.comparison.plan import AUTO, Comparison
from pretrain.comparison.tasks import runs_that_count, tasks
from pretrain.comparison.verdicts import compare_arms
from pretrain.errors import UserError
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.setting_types import value_text


def begun(comparison: Comparison, out: Path) -> Comparison:
    """Return the comparison at the last look that any run is there for; as it is where its seeds are given.

    So no run is left out. Where runs are to be overwritten, those there may have other settings and do not count.
    """
    if comparison.seeds != AUTO:
        return comparison
    looks = range(0 if comparison.overwrite else len(comparison.looks.seeds))
    return comparison.at_look(max((k for k in looks if _has_begun(comparison.at_look(k), out)), default=0))


def _has_begun(comparison: Comparison, out: Path) -> bool:
    """Return whether there is a run of a seed that the comparison did not have at the look before."""
    before = comparison.looks.seeds[comparison.look - 1] if comparison.look else 0
    new = (task for task in runs_that_count(comparison) if task.seed >= before)
    return any((task.folder(out) / "config.yaml").exists() for task in new)


def reached(comparison: Comparison, out: Path) -> Comparison:
    """Return the comparison at the look that it has come to; as it is where its seeds are given."""
    comparison = begun(comparison, out)
    while comparison.may_go_on and goes_on(comparison, out):
        comparison = comparison.at_look(comparison.look + 1)
    return comparison


def goes_on(comparison: Comparison, out: Path) -> bool:
    """Return whether all tasks of a look have ended, and some label budget needs more seeds.

    Where no pair of runs succeeded at some budget, more seeds would hardly do better.
    """
    if not all(_has_ended(RunFolder(task.folder(out))) for task in tasks(comparison)):
        return False
    widths = half_widths(comparison, out)
    return len(widths) == len(comparison.labels) and max(widths.values()) > comparison.half_width


def half_widths(comparison: Comparison, out: Path) -> dict[int, float]:
    """Return, by label budget, how many points the interval of the main arm's difference reaches to each side.

    It is infinite where there are fewer paired seeds than a claim needs.
    """
    arm = comparison.main_arm
    assert arm is not None
    runs = pd.DataFrame(_runs(comparison, {arm, comparison.baseline}))
    found = compare_arms(runs, comparison.baseline, comparison.looks) if len(runs) else []
    return {each.labels: _half_width(each.difference) for each in found}


def _half_width(difference: Estimate) -> float:
    low, high = difference.claimed
    return 100 * (high - low) / 2 if difference.n >= SEEDS_FOR_A_CLAIM else float("inf")


def _runs(comparison: Comparison, arms: set[str]) -> Iterator[dict[str, Any]]:
    """Yield what decides of each finished run of some arms."""
    for task, summary, kept in finished_runs(comparison, arms):
        row = {"labels": summary["labels"], "test_accuracy": summary["test_accuracy"]}
        yield {"arm": task.arm, "seed": task.seed, **row, "correct": kept.correct if kept else None}


def _has_ended(folder: RunFolder) -> bool:
    return folder.is_complete or folder.failure() is not None


def refuse_other_rule(comparison: Comparison, out: Path) -> None:
    """Refuse to change the rule that ends a comparison once its results may have been seen.

    Raises
    ------
    UserError
        When the seeds of the comparison in the folder were given and those of this one are "auto", or the reverse.
    """
    if comparison.overwrite or not (out / "config.yaml").exists():
        return
    there = RunFolder(out).config().get("seeds")
    if (there == AUTO) != (comparison.seeds == AUTO):
        raise UserError(
            f"{out} holds a comparison with seeds={value_text(there)}, and its results may have been seen. With "
            f"seeds={value_text(comparison.seeds)} now, false verdicts could be more than 5%. Give another out=, or "
            "overwrite=true to start again."
        )
