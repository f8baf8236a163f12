"""What a comparison says first: the verdict, and what it is worth."""

from collections import defaultdict

from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.plan import Comparison
from pretrain.comparison.verdicts import PairedComparison, compare_arms
from pretrain.reporting.comparison_results import Results

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


def against_matched(results: Results) -> list[PairedComparison]:
    """Compare the main arm with the one from scratch that is given the same compute."""
    main, matched = results.comparison.main_arm, results.comparison.compute_matched_arm
    if main is None or matched is None:
        return []
    return compare_arms(results.runs[results.runs["arm"].isin([main, matched])], matched)


def headline(comparisons: list[PairedComparison], matched: list[PairedComparison], comparison: Comparison) -> str:
    """Return the verdict on the main arm, over all budgets; on every arm, where the baseline is pretrained itself.

    And what is left of it against the arm from scratch that has as much compute; `matched` is as of `against_matched`.
    """
    if comparisons and comparison.arms[comparison.baseline].pretrained:
        said = _by_verdict(comparisons)
        return f"Compared with {comparison.baseline}, which is pretrained itself, {said} (in points)."
    chosen = [c for c in comparisons if c.arm == comparison.main_arm]
    if not chosen:
        return f"No pretrained arm has been compared with {comparison.baseline} yet."
    said = f"Compared with {comparison.baseline}, pretraining {_over_budgets(chosen)}."
    if matched:
        said += (
            f" Compared with {comparison.compute_matched_arm}, which had as much compute, it {_over_budgets(matched)}."
        )
    return said


def _over_budgets(comparisons: list[PairedComparison]) -> str:
    """Say what an arm did, verdict by verdict, with which labels."""
    budgets: dict[str, list[str]] = defaultdict(list)
    for c in comparisons:
        budgets[c.verdict].append(f"{c.labels:,} labels ({100 * c.difference.mean:+.1f} points)")
    return "; it ".join(SAID[verdict].format(", ".join(where)) for verdict, where in budgets.items())


def _by_verdict(comparisons: list[PairedComparison]) -> str:
    """Return which arms have which verdict at each budget, and their differences in points."""
    arms: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for c in comparisons:
        arms[c.labels][c.verdict].append(f"{c.arm} ({100 * c.difference.mean:+.1f})")
    said = {n: "; ".join(f"{OF_ARMS[v]} {', '.join(which)}" for v, which in of_n.items()) for n, of_n in arms.items()}
    return "; ".join(f"with {labels:,} labels {verdicts}" for labels, verdicts in sorted(said.items()))


def worth(needed: list[LabelEfficiency], comparison: Comparison) -> list[str]:
    """Return what the main arm is worth in labels, a sentence a budget."""
    return [n.sentence() for n in needed if n.arm == comparison.main_arm]
