"""What a comparison says first: the verdict, and what it is worth."""

from collections import defaultdict

from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.verdicts import Comparison, compare_arms
from pretrain.reporting.arm_roles import is_pretrained, main_arm, matched_arm
from pretrain.reporting.comparison_results import Results
from pretrain.runs.settings import Config

SAID = {
    "helps": "helped with {}",
    "hurts": "hurt with {}",
    "no detectable difference": "made no detectable difference with {}",
    "too few seeds": "was run with too few seeds for a claim with {}",
}
OF_ARMS = {
    "helps": "these help:",
    "hurts": "these hurt:",
    "no detectable difference": "no difference is detectable for",
    "too few seeds": "there are too few seeds for a claim on",
}


def against_matched(results: Results) -> list[Comparison]:
    """Compare the main arm with the one from scratch that is given the same compute."""
    main, matched = main_arm(results.config), matched_arm(results.config)
    if main is None or matched is None:
        return []
    return compare_arms(results.runs[results.runs["arm"].isin([main, matched])], matched)


def headline(comparisons: list[Comparison], matched: list[Comparison], config: Config) -> str:
    """Return the verdict on the main arm, over all budgets; on every arm, where the baseline is pretrained itself.

    And what is left of it against the arm from scratch that has as much compute; `matched` is as of `against_matched`.
    """
    if comparisons and is_pretrained(config["baseline"], config):
        said = _by_verdict(comparisons)
        return f"Compared with {config['baseline']}, which is pretrained itself, {said} (in points)."
    chosen = [c for c in comparisons if c.arm == main_arm(config)]
    if not chosen:
        return f"No pretrained arm has been compared with {config['baseline']} yet."
    said = f"Compared with {config['baseline']}, pretraining {_over_budgets(chosen)}."
    if matched:
        said += f" Compared with {matched_arm(config)}, which had as much compute, it {_over_budgets(matched)}."
    return said


def _over_budgets(comparisons: list[Comparison]) -> str:
    """Say what an arm did, verdict by verdict, with which labels."""
    budgets: dict[str, list[str]] = defaultdict(list)
    for c in comparisons:
        budgets[c.verdict].append(f"{c.labels:,} labels ({100 * c.difference.mean:+.1f} points)")
    return "; it ".join(SAID[verdict].format(", ".join(where)) for verdict, where in budgets.items())


def _by_verdict(comparisons: list[Comparison]) -> str:
    """Return which arms have which verdict at each budget, and their differences in points."""
    arms: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for c in comparisons:
        arms[c.labels][c.verdict].append(f"{c.arm} ({100 * c.difference.mean:+.1f})")
    said = {n: "; ".join(f"{OF_ARMS[v]} {', '.join(which)}" for v, which in of_n.items()) for n, of_n in arms.items()}
    return "; ".join(f"with {labels:,} labels {verdicts}" for labels, verdicts in sorted(said.items()))


def worth(needed: list[LabelEfficiency], config: Config) -> list[str]:
    """Return what the main arm is worth in labels, a sentence a budget."""
    return [n.sentence() for n in needed if n.arm == main_arm(config)]
