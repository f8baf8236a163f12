"""The headline of a report: the verdict on pretraining in a sentence or two, and its label efficiency."""

from collections import defaultdict

from pretrain.comparison.label_efficiency import LabelEfficiency
from pretrain.comparison.plan import Comparison
from pretrain.comparison.verdicts import PairedComparison, compare_arms
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.settings_in_words import enumeration

# The predicates of a sentence about pretraining; label budgets follow.
PRETRAINING_PREDICATES = {
    "helps": "helped with",
    "hurts": "hurt with",
    "no detectable difference": "made no detectable difference with",
    "too few seeds": "had too few seeds for a claim with",
}
# The beginnings of clauses about several arms; the names of arms follow.
CLAUSES_ABOUT_ARMS = {
    "helps": "these arms help:",
    "hurts": "these arms hurt:",
    "no detectable difference": "no difference is detectable for",
    "too few seeds": "there are too few seeds for a claim about",
}


def against_matched(results: Results) -> list[PairedComparison]:
    """Compare the main arm with the compute-matched arm from scratch, where there are both."""
    main, matched = results.comparison.main_arm, results.comparison.compute_matched_arm
    if main is None or matched is None:
        return []
    of_both = results.runs[results.runs["arm"].isin([main, matched])]
    return compare_arms(of_both, matched, results.comparison.looks)


def headline(paired: list[PairedComparison], matched: list[PairedComparison], comparison: Comparison) -> str:
    """Return the verdict on the main arm over all budgets, or on every arm where the baseline is pretrained itself.

    Parameters
    ----------
    paired : list of PairedComparison
        Every arm against the baseline.
    matched : list of PairedComparison
        The main arm against the compute-matched one, from `against_matched`.
    comparison : Comparison
        What was compared.
    """
    if paired and comparison.arms[comparison.baseline].pretrained:
        verdicts = _every_arm(paired)
        return f"Compared with {comparison.baseline}, which is pretrained itself, {verdicts} (differences in points)."
    of_main = [c for c in paired if c.arm == comparison.main_arm]
    if not of_main:
        return f"No pretrained arm has been compared with {comparison.baseline} yet."
    sentence = f"Compared with {comparison.baseline}, pretraining {_over_budgets(of_main)}."
    if matched:
        arm = comparison.compute_matched_arm
        sentence += f" Compared with the compute-matched arm {arm}, it {_over_budgets(matched)}."
    return sentence


def _over_budgets(paired: list[PairedComparison]) -> str:
    """Return the effect of pretraining as predicates, one for each verdict, with the budgets that have it."""
    budgets: dict[str, list[str]] = defaultdict(list)
    for c in paired:
        budgets[c.verdict].append(f"{c.labels:,} labels ({100 * c.difference.mean:+.1f} points)")
    return "; it ".join(f"{PRETRAINING_PREDICATES[verdict]} {enumeration(of)}" for verdict, of in budgets.items())


def _every_arm(paired: list[PairedComparison]) -> str:
    """Return the arms by budget and verdict, with their differences in points."""
    arms: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for c in paired:
        arms[c.labels][c.verdict].append(f"{c.arm} ({100 * c.difference.mean:+.1f})")
    clauses = {
        labels: "; ".join(f"{CLAUSES_ABOUT_ARMS[verdict]} {enumeration(names)}" for verdict, names in verdicts.items())
        for labels, verdicts in arms.items()
    }
    return "; ".join(f"with {labels:,} labels {clause}" for labels, clause in sorted(clauses.items()))


def label_efficiency_sentences(efficiencies: list[LabelEfficiency], comparison: Comparison) -> list[str]:
    """Return the label efficiency of the main arm, one sentence for each budget."""
    return [each.sentence() for each in efficiencies if each.arm == comparison.main_arm]
