"""How many seeds: the sentences of the report on how many more would tell a difference, and what they would cost."""

from dataclasses import asdict
from typing import Any

from pretrain.comparison.crossed_effects import CrossedEffects
from pretrain.comparison.plan import AUTO
from pretrain.comparison.seed_planning import MOST_SEEDS, SPREAD_CONFIDENCE, SeedPlan, paired_effects, seed_plan
from pretrain.comparison.verdicts import PairedComparison
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.settings_in_words import counted


def seed_plans(results: Results) -> dict[int, SeedPlan]:
    """Return, by label budget, the seeds to detect the difference that the user names, or else the one seen."""
    comparison = results.comparison
    wanted = None if comparison.detect is None else comparison.detect / 100
    effects, level = _effects(results), comparison.looks.level
    # Seeds that all agree say nothing of the spread, and no plan follows.
    spread = {labels: each for labels, each in effects.items() if each.seed_variance}
    return {labels: seed_plan(each, wanted or abs(each.mean), level) for labels, each in spread.items()}


def _effects(results: Results) -> dict[int, CrossedEffects]:
    """Return the difference of the main arm from the baseline at each budget with two paired seeds or more."""
    arm, runs = results.comparison.main_arm, results.runs
    return paired_effects(runs, arm, results.comparison.baseline) if arm and len(runs) else {}


def seeds_as_json(results: Results) -> dict[str, Any]:
    """Return the plans as plain values for results.json; null stands for what no number of seeds or images gives."""
    comparison, seconds = results.comparison, results.further_seed_seconds
    return {
        "looks": list(comparison.looks.seeds) if comparison.seeds == AUTO else None,
        "nominal_level": comparison.looks.level,
        "further_seed_seconds": seconds,
        "plans": [{"labels": labels, **asdict(plan)} for labels, plan in seed_plans(results).items()],
    }


def how_many_seeds(results: Results, paired: list[PairedComparison]) -> list[str]:
    """Return the sentences of the section: how far ``seeds=auto`` has come, and a plan for each label budget.

    Parameters
    ----------
    results : Results
        What the folder of the comparison holds.
    paired : list of PairedComparison
        Every arm against the baseline.
    """
    comparison = results.comparison
    plans, verdicts = seed_plans(results), {c.labels: c.verdict for c in paired if c.arm == comparison.main_arm}
    lines = [_of_budget(labels, plan, verdicts.get(labels, ""), results) for labels, plan in plans.items()]
    planned = [
        "These numbers are rough: "
        + ("" if comparison.detect else "the difference seen may be far from the true one, and ")
        + "the spread over seeds is an estimate. The range in parentheses takes the ends of its "
        f"{SPREAD_CONFIDENCE:.0%} interval. Hours are those of training, by the runs that are complete."
    ]
    return [*_looks(results, paired), *lines, *(planned if any(" in all" in line for line in lines) else [])]


def _looks(results: Results, paired: list[PairedComparison]) -> list[str]:
    """Say at which look a comparison is that goes on by itself, and how wide its intervals are."""
    comparison = results.comparison
    if comparison.seeds != AUTO:
        return []
    looks, of_main = comparison.looks.seeds, [c.difference.claimed for c in paired if c.arm == comparison.main_arm]
    widest = f" So far it reaches {max(100 * (high - low) / 2 for low, high in of_main):.2f}." if of_main else ""
    return [
        f"With seeds=auto, this is look {comparison.look + 1} of at most {len(looks)} (after "
        f"{', '.join(map(str, looks))} seeds). Each look tests at a level of {comparison.looks.level:.2%} instead of "
        f"5%, and intervals are as wide as that asks. The comparison ends once the interval reaches at most "
        f"{comparison.half_width:g} points to each side at every label budget.{widest}"
    ]


def _of_budget(labels: int, plan: SeedPlan, verdict: str, results: Results) -> str:
    """Return what a plan says of a label budget."""
    comparison = results.comparison
    arm, baseline = comparison.main_arm, comparison.baseline
    where = f"{arm} against {baseline}, {labels:,} labels"
    points = 100 * plan.difference
    size = f"{points:g} point{'s' * (points != 1)}"
    if comparison.detect is None:
        if verdict in ("helps", "hurts"):
            return f"{where}: {plan.seeds} seeds tell the difference, so it needs no more."
        if not plan.difference:
            return f"{where}: no difference is seen with {counted(plan.seeds, 'seed')}, so there is none to plan for."
        size = f"the {100 * plan.difference:.2f} points that are seen"
    chance = f"{counted(plan.seeds, 'seed')} detect a difference of {size} {_times_in_100(plan.power)}"
    return f"{where}: {chance}. {_needed(plan, results)}"


def _needed(plan: SeedPlan, results: Results) -> str:
    """Say how many seeds would detect the difference four times in five."""
    if plan.images is not None:
        return (
            "No number of seeds would do so four times in five, since the test images are too few: it takes at least "
            f"about {plan.images:,} of them."
        )
    if plan.needed is None:
        return f"To do so four times in five, even {MOST_SEEDS:,} seeds are too few."
    if plan.needed <= plan.seeds:
        return "That is enough."
    more = plan.needed - plan.seeds
    most = f"{plan.most:,}" if plan.most else f"more than {MOST_SEEDS:,}"
    return (
        f"To do so four times in five, it takes about {plan.needed:,} seeds in all ({plan.fewest:,} to {most}), "
        f"{more:,} more{_cost(more, results)}."
    )


def _cost(seeds: int, results: Results) -> str:
    """Say what further seeds would cost, all arms and budgets together."""
    if results.further_seed_seconds is None:
        return ""
    workers = results.comparison.slurm.workers or results.comparison.jobs
    return f", at about {duration(seeds * results.further_seed_seconds / workers)}"


def duration(seconds: float) -> str:
    """Return a duration in hours with two digits, or in minutes or seconds where it is short."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{float(f'{seconds / length:.2g}'):g} {unit}"
    return f"{seconds:.0f} seconds"


def _times_in_100(share: float) -> str:
    return f"{min(max(round(100 * share), 1), 99)} times in 100"
