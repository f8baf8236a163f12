"""What one more seed of a comparison would cost, by the tasks that are complete."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from pretrain.comparison.plan import Comparison
from pretrain.comparison.tasks import Task, tasks

# Where summary.json has the seconds of a run of its own kind; the last of these that is there.
SECONDS = ("pretrain_seconds", "finetune_seconds", "probe_seconds")


def own_seconds(summary: Mapping[str, Any]) -> float | None:
    """Return the seconds that a complete task took by itself, without what it started from."""
    return next((summary[key] for key in reversed(SECONDS) if key in summary), None)


def seconds_of_a_further_seed(comparison: Comparison, done: Mapping[Task, Mapping[str, Any]]) -> float | None:
    """Return the mean seconds of all that one more seed adds: its runs, probes and pretraining, unless that is held.

    Parameters
    ----------
    comparison : Comparison
        What is compared.
    done : mapping of Task to dict
        Summaries of the complete tasks.

    Returns
    -------
    float or None
        Seconds of training, one task after the other; None while a kind of task has no complete one.
    """
    taken: dict[Task, list[float]] = defaultdict(list)
    for task, summary in done.items():
        if (seconds := own_seconds(summary)) is not None:
            taken[replace(task, seed=-1)].append(seconds)
    seeds, there = comparison.seeds_in_use, tasks(comparison)
    new = next(seed for seed in range(len(seeds) + len(comparison.tuning.seeds) + 1) if _is_free(seed, comparison))
    added = [task for task in tasks(replace(comparison, seeds=[*seeds, new])) if task not in there]
    needed = [taken[replace(task, seed=-1)] for task in added]
    return sum(map(fmean, needed)) if all(needed) else None


def _is_free(seed: int, comparison: Comparison) -> bool:
    return seed not in comparison.seeds_in_use and seed not in comparison.tuning.seeds
