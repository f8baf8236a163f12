"""What a reader must know before believing a verdict."""

from collections import defaultdict

from pretrain.comparison.paired_differences import ENOUGH
from pretrain.comparison.tasks import is_tuned, tuning_of
from pretrain.comparison.verdicts import Comparison
from pretrain.reporting.arm_roles import is_frozen, main_arm, matched_arm, settings_of
from pretrain.reporting.comparison_results import Results
from pretrain.runs.settings import Config

FEW = 1000  # test images, with less of which their number is told
MANY = 5  # arms compared, with more of which their number is told


def caveats(results: Results, comparisons: list[Comparison], matched: list[Comparison]) -> list[str]:
    """Return what a reader must know before believing the verdict; `matched` is as of `against_matched`."""
    config, main = results.config, main_arm(results.config)
    of_main = [c for c in comparisons if main in (c.arm, None)]
    fewest = min((c.difference.n for c in of_main), default=len(config["seeds"]))
    lines = []
    if fewest < ENOUGH:
        paired = f"{fewest} paired seed{'s' if fewest != 1 else ''}"
        lines.append(f"The verdict rests on as few as {paired}; a claim needs {ENOUGH} or more.")
    elif fewest < len(config["seeds"]):
        lines.append(f"Some comparisons rest on {fewest} of {len(config['seeds'])} seeds: the other runs are missing.")
    chosen = [_tuned_equally(config), *_frozen_by_tuning(results)]
    return [*lines, *chosen, *_matched(config, of_main, matched), *_few_images(results), *_many_arms(comparisons)]


def _tuned_equally(config: Config) -> str:
    tuning = tuning_of(config)
    exempt = _own_settings(config)
    if tuning.trials == 0:
        chosen = "Nothing was tuned: all arms ran with the same settings, which somebody chose"
        return f"{chosen}{'; but ' + '; '.join(exempt) if exempt else ''}. They may suit one better."
    tried = tuning.candidates()
    seeds = ", ".join(map(str, tuning.seeds))
    fixed = ", ".join(arm for arm in config["arms"] if not is_tuned(arm, config, tried))
    return (
        f"The arms were tuned equally: each tried the same {len(tried)} settings at each label budget, on validation "
        f"images and on other seeds ({seeds}) than those of the runs"
        + (f"; but {'; '.join(exempt)}" if exempt else "")
        + (f", which leaves nothing to try for {fixed}." if fixed else ".")
    )


def _few_images(results: Results) -> list[str]:
    """Say where seeds share their labels, and where there are few test images."""
    lines = []
    if "all" in results.config["labels"]:
        lines.append(
            "With all labels every seed learns from the same ones: intervals say what another training would give, not "
            "what other labels would."
        )
    if results.test_images and results.test_images < FEW:
        share = 100 / results.test_images
        lines.append(f"The test split has {results.test_images:,} images: one of them is {share:.2g} points.")
    return lines


def _many_arms(comparisons: list[Comparison]) -> list[str]:
    """Say how many arms are compared where a chance finding among them would be no surprise."""
    arms = len({c.arm for c in comparisons})
    if arms <= MANY:
        return []
    return [
        f"{arms} arms are compared, and nothing is corrected for their number: of 20 that change nothing, about one "
        "would be said to help or hurt."
    ]


def _own_settings(config: Config) -> list[str]:
    """Name the settings that arms keep to themselves, but for that of frozen layers, which says what such an arm is."""
    owners = defaultdict(list)
    for arm in config["arms"]:
        owners[", ".join(sorted({*(settings_of(arm, config).get("recipe") or {})} - {"freeze"}))].append(arm)
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
        if not is_frozen(str(arm), results.config)
    ]
    return [f"Tuning left the layers as they were for {', '.join(arms)}."] if arms else []


def _matched(config: Config, of_main: list[Comparison], matched: list[Comparison]) -> list[str]:
    """Say whether what pretraining gains could be had from training longer with the same compute."""
    arm = matched_arm(config)
    if settings_of(config["baseline"], config).get("matched"):
        return [f"{config['baseline']} was given the compute of pretraining."]
    if main_arm(config) is None or is_frozen(config["baseline"], config):  # whose layers no training changes
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
        f"With {', '.join(lost)} labels pretraining helps against {config['baseline']}, but no gain shows "
        f"against {arm}, which is given the same compute: longer training may explain it.",
    ]
