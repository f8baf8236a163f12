"""Caveats: what a reader must know before believing a verdict."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pretrain.comparison.compute_frontier import ComputeFrontier
from pretrain.comparison.paired_differences import SEEDS_FOR_A_CLAIM
from pretrain.comparison.plan import Comparison
from pretrain.comparison.verdicts import PairedComparison
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.compute_text import other_steps, overlapping
from pretrain.reporting.methods_text import draws_in_words
from pretrain.reporting.settings_in_words import counted, enumeration

# A smaller test split is a caveat.
ENOUGH_TEST_IMAGES = 1000
# More arms than this are a caveat, since nothing is corrected for their number.
MOST_ARMS = 5


def caveats(
    results: Results,
    paired: list[PairedComparison],
    matched: list[PairedComparison],
    frontiers: Sequence[ComputeFrontier] = (),
) -> list[str]:
    """Return one sentence or more for each caveat.

    Parameters
    ----------
    results : Results
        What the folder of the comparison holds.
    paired : list of PairedComparison
        Every arm against the baseline.
    matched : list of PairedComparison
        The main arm against the compute-matched one, from `against_matched`.
    frontiers : sequence of ComputeFrontier
        The arms against the baseline over total compute, where it was varied.
    """
    comparison, main = results.comparison, results.comparison.main_arm
    of_main = [c for c in paired if main in (c.arm, None)]
    return [
        *_few_seeds(comparison, of_main),
        _tuning(comparison),
        *_frozen_by_tuning(results),
        *(_compute(comparison, of_main, matched) if not overlapping(frontiers, comparison) else []),
        *other_steps(comparison),
        *_held_draws(comparison),
        *_shared_labels(comparison),
        *_few_test_images(results),
        *_these_images_alone(paired),
        *_many_arms(paired),
        *_changed_environments(results),
    ]


def _few_seeds(comparison: Comparison, of_main: list[PairedComparison]) -> list[str]:
    """Say on how many seeds the verdict rests where they are too few for a claim, or where some are missing."""
    planned = len(comparison.seeds_in_use)
    fewest = min((c.difference.n for c in of_main), default=planned)
    if fewest < SEEDS_FOR_A_CLAIM:
        seeds = counted(fewest, "paired seed")
        return [f"The verdict rests on as few as {seeds}; a claim needs {SEEDS_FOR_A_CLAIM} or more."]
    if fewest < planned:
        return [f"Some differences rest on {fewest} of {planned} seeds, since the other runs are missing."]
    return []


def _tuning(comparison: Comparison) -> str:
    """Say whether the arms were tuned equally, and which settings were exempt."""
    tuning, exempt = comparison.tuning, "; ".join(_own_settings(comparison))
    if tuning.trials == 0:
        exception = f", except that {exempt}" if exempt else ""
        return (
            f"Nothing was tuned. All arms ran with the same settings, chosen by hand{exception}. These settings may "
            "suit one arm better than another."
        )
    seeds = ", ".join(map(str, tuning.seeds))
    untuned = [arm for arm in comparison.arms if not comparison.is_tuned(arm)]
    return (
        f"The arms were tuned equally. Each tried the same {counted(len(tuning.candidates()), 'combination')} of "
        f"settings at each label budget, on validation images and with seeds ({seeds}) that no run has."
        + (f" Exceptions: {exempt}." if exempt else "")
        + (f" Nothing was left to tune for {enumeration(untuned)}." if untuned else "")
    )


def _own_settings(comparison: Comparison) -> list[str]:
    """Name the settings that arms have of their own, except freeze, which defines a frozen arm."""
    owners = defaultdict(list)
    for name, arm in comparison.arms.items():
        owners[tuple(sorted({*arm.recipe} - {"freeze"}))].append(name)
    return [
        f"{enumeration(arms)} {'has its' if len(arms) == 1 else 'have their'} own {enumeration(settings)}"
        for settings, arms in owners.items()
        if settings
    ]


def _frozen_by_tuning(results: Results) -> list[str]:
    """Say for which arms tuning chose to freeze the layers."""
    tried = results.trials
    if "freeze" not in tried:
        return []
    chosen = tried[(tried["chosen"] == "yes") & (tried["freeze"] == True)]  # noqa: E712
    budgets = chosen.drop_duplicates(["arm", "labels"]).groupby("arm", sort=False)["labels"]
    arms = [
        f"{arm} ({_budgets_in_words(where)})" for arm, where in budgets if not results.comparison.arms[str(arm)].frozen
    ]
    return [f"Tuning chose frozen layers for {enumeration(arms)}."] if arms else []


def _compute(comparison: Comparison, of_main: list[PairedComparison], matched: list[PairedComparison]) -> list[str]:
    """Say whether training from scratch for longer, with the same compute, would gain as much as pretraining."""
    arm, baseline = comparison.compute_matched_arm, comparison.baseline
    if comparison.arms[baseline].compute_matched:
        return [f"The baseline {baseline} is compute-matched: it was given the compute of pretraining."]
    # Longer training cannot help a frozen baseline, whose layers never change.
    if comparison.main_arm is None or comparison.arms[baseline].frozen:
        return []
    if arm is None:
        return ["No arm from scratch is compute-matched, so longer training might give the same gain."]
    verdicts = {c.labels: c.verdict for c in matched}
    lost = [c.labels for c in of_main if c.verdict == "helps" and verdicts.get(c.labels, "helps") != "helps"]
    missing = [c.labels for c in of_main if c.labels not in verdicts]
    lines = [f"The compute-matched arm {arm} has no results yet with {_budgets_in_words(missing)}."] if missing else []
    if not lost:
        return lines
    return [
        *lines,
        f"With {_budgets_in_words(lost)}, pretraining helps against {baseline} but shows no gain over the "
        f"compute-matched arm {arm}. Longer training may explain the difference.",
    ]


def _held_draws(comparison: Comparison) -> list[str]:
    """Say that intervals do not cover what all seeds share."""
    _, held = draws_in_words(comparison)
    if not held:
        return []
    return [f"All seeds share {enumeration(held)}. Intervals do not say how the difference varies with that."]


def _shared_labels(comparison: Comparison) -> list[str]:
    """Say that all seeds share their labelled images where one budget has all labels."""
    if "all" not in comparison.labels:
        return []
    return [
        "With all labels, every seed learns from the same labelled images. Intervals then account for the randomness "
        "of training, but not for the choice of labelled images."
    ]


def _few_test_images(results: Results) -> list[str]:
    """Say what one test image is worth where there are few."""
    images = results.test_images
    if not images or images >= ENOUGH_TEST_IMAGES:
        return []
    return [f"The test split has only {images:,} images, so one image is worth {100 / images:.2g} points."]


def _these_images_alone(paired: list[PairedComparison]) -> list[str]:
    """Say which intervals hold for these test images alone, since runs of an earlier version kept no predictions."""
    with_interval = [c for c in paired if c.difference.n > 1]
    alone = [f"{c.arm} ({c.labels:,} labels)" for c in with_interval if c.difference.new_images is None]
    if not alone:
        return []
    where = f" of {enumeration(alone)}" if len(alone) < len(with_interval) else ""
    return [
        f"Intervals and verdicts{where} hold for other seeds on these very test images, and not for other test images, "
        "since runs kept no predictions."
    ]


def _many_arms(paired: list[PairedComparison]) -> list[str]:
    """Say how many arms are compared where a verdict by chance would be no surprise."""
    arms = len({c.arm for c in paired})
    if arms <= MOST_ARMS:
        return []
    return [
        f"{arms} arms are compared, and nothing is corrected for their number. Of 20 arms without any effect, about "
        "one would be said to help or hurt."
    ]


def _changed_environments(results: Results) -> list[str]:
    """Say which runs were interrupted and went on with other versions or on another processor."""
    changed = results.changed_environments
    if not changed:
        return []
    runs = f"{counted(len(changed), 'run')} went on in another environment after an interruption"
    return [f"{runs}, so the same seeds may give other bits elsewhere. The first is {changed[0]}."]


def _budgets_in_words(budgets: Iterable[int]) -> str:
    return f"{enumeration([f'{labels:,}' for labels in budgets])} labels"
