"""What a reader must know before believing a verdict."""

from collections import defaultdict

from pretrain.comparison.paired_differences import ENOUGH
from pretrain.comparison.plan import Comparison
from pretrain.comparison.verdicts import PairedComparison
from pretrain.reporting.comparison_results import Results

FEW = 1000  # test images, with less of which their number is told
MANY = 5  # arms compared, with more of which their number is told


def caveats(results: Results, comparisons: list[PairedComparison], matched: list[PairedComparison]) -> list[str]:
    """Return what a reader must know before believing the verdict; `matched` is as of `against_matched`."""
    comparison, main = results.comparison, results.comparison.main_arm
    of_main = [c for c in comparisons if main in (c.arm, None)]
    fewest = min((c.difference.n for c in of_main), default=len(comparison.seeds))
    lines = []
    if fewest < ENOUGH:
        paired = f"{fewest} paired seed{'s' if fewest != 1 else ''}"
        lines.append(f"The verdict rests on as few as {paired}; a claim needs {ENOUGH} or more.")
    elif fewest < len(comparison.seeds):
        lines.append(f"Some comparisons rest on {fewest} of {len(comparison.seeds)} seeds: the other runs are missing.")
    chosen = [_tuned_equally(comparison), *_frozen_by_tuning(results)]
    return [*lines, *chosen, *_matched(comparison, of_main, matched), *_few_images(results), *_many_arms(comparisons)]


def _tuned_equally(comparison: Comparison) -> str:
    tuning, exempt = comparison.tuning, _own_settings(comparison)
    if tuning.trials == 0:
        chosen = "Nothing was tuned: all arms ran with the same settings, which somebody chose"
        return f"{chosen}{'; but ' + '; '.join(exempt) if exempt else ''}. They may suit one better."
    tried = tuning.candidates()
    seeds = ", ".join(map(str, tuning.seeds))
    fixed = ", ".join(arm for arm in comparison.arms if not comparison.is_tuned(arm))
    return (
        f"The arms were tuned equally: each tried the same {len(tried)} settings at each label budget, on validation "
        f"images and on other seeds ({seeds}) than those of the runs"
        + (f"; but {'; '.join(exempt)}" if exempt else "")
        + (f", which leaves nothing to try for {fixed}." if fixed else ".")
    )


def _few_images(results: Results) -> list[str]:
    """Say where seeds share their labels, and where there are few test images."""
    lines = []
    if "all" in results.comparison.labels:
        lines.append(
            "With all labels every seed learns from the same ones: intervals say what another training would give, not "
            "what other labels would."
        )
    if results.test_images and results.test_images < FEW:
        share = 100 / results.test_images
        lines.append(f"The test split has {results.test_images:,} images: one of them is {share:.2g} points.")
    return lines


def _many_arms(comparisons: list[PairedComparison]) -> list[str]:
    """Say how many arms are compared where a chance finding among them would be no surprise."""
    arms = len({c.arm for c in comparisons})
    if arms <= MANY:
        return []
    return [
        f"{arms} arms are compared, and nothing is corrected for their number: of 20 that change nothing, about one "
        "would be said to help or hurt."
    ]


def _own_settings(comparison: Comparison) -> list[str]:
    """Name the settings that arms keep to themselves, but for that of frozen layers, which says what such an arm is."""
    owners = defaultdict(list)
    for name, arm in comparison.arms.items():
        owners[", ".join(sorted({*arm.recipe} - {"freeze"}))].append(name)
    return [
        f"{', '.join(arms)} {'has its' if len(arms) == 1 else 'have their'} own {settings}"
        for settings, arms in owners.items()
        if settings
    ]


def _frozen_by_tuning(results: Results) -> list[str]:
    """Say where tuning chose to leave the layers of an arm as they are."""
    tried = results.trials
    if "freeze" not in tried:
        return []
    chosen = tried[(tried["chosen"] == "yes") & (tried["freeze"] == True)]  # noqa: E712
    budgets = chosen.drop_duplicates(["arm", "labels"]).groupby("arm", sort=False)["labels"]
    arms = [
        f"{arm} ({', '.join(f'{labels:,}' for labels in where)} labels)"
        for arm, where in budgets
        if not results.comparison.arms[str(arm)].frozen
    ]
    return [f"Tuning left the layers as they were for {', '.join(arms)}."] if arms else []


def _matched(comparison: Comparison, of_main: list[PairedComparison], matched: list[PairedComparison]) -> list[str]:
    """Say whether what pretraining gains could be had from training longer with the same compute."""
    arm, baseline = comparison.compute_matched_arm, comparison.baseline
    if comparison.arms[baseline].compute_matched:
        return [f"{baseline} was given the compute of pretraining."]
    if comparison.main_arm is None or comparison.arms[baseline].frozen:  # whose layers no training changes
        return []
    if arm is None:
        return ["No arm from scratch was given the compute of pretraining: a gain may be had by training longer."]
    equal = {c.labels: c.verdict for c in matched}
    lost = [f"{c.labels:,}" for c in of_main if c.verdict == "helps" and equal.get(c.labels, "helps") != "helps"]
    missing = [f"{c.labels:,}" for c in of_main if c.labels not in equal]
    lines = [f"{arm} has no results yet with {', '.join(missing)} labels."] if missing else []
    if not lost:
        return lines
    return [
        *lines,
        f"With {', '.join(lost)} labels pretraining helps against {baseline}, but no gain shows "
        f"against {arm}, which is given the same compute: longer training may explain it.",
    ]
