"""What a comparison says in words: the verdict, what it is worth, and what to bear in mind."""

from collections import defaultdict

from pretrain.budgets import LabelsNeeded
from pretrain.config import finetuning_settings
from pretrain.differences import ENOUGH
from pretrain.grid import is_tuned, tuning_of
from pretrain.reporting.results import Results
from pretrain.runs import Config
from pretrain.statistics import Comparison, compare_arms

FEW = 1000  # test images, with less of which their number is told
MANY = 5  # arms compared, with more of which their number is told
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


def settings_of(arm: str, config: Config) -> Config:
    """Return what an arm changes."""
    return {key: value for key, value in (config["arms"][arm] or {}).items() if value is not None}


def is_frozen(arm: str, config: Config) -> bool:
    """Say whether an arm trains its head only."""
    settings = {**config["finetuning"], **(settings_of(arm, config).get("finetuning") or {})}
    return finetuning_settings({"freeze": settings["freeze"]}).freeze  # "no" is false


def is_pretrained(arm: str, config: Config) -> bool:
    """Say whether the layers of an arm are pretrained."""
    return settings_of(arm, config).get("init") == "pretrained"


def is_variant(arm: str, config: Config) -> bool:
    """Say whether an arm has another pretraining than the comparison's: fewer layers, fewer images, other stages."""
    return not {"upto", "pool", "stack"}.isdisjoint(settings_of(arm, config))


def main_arm(config: Config) -> str | None:
    """Return the arm of the verdict: the first of the own pretraining whose layers learn if the baseline's do.

    There is none where the baseline is pretrained itself; and layers that learn are not judged by frozen ones, since
    that would show more than pretraining.
    """
    baseline = config["baseline"]
    if is_pretrained(baseline, config):
        return None
    fixed = is_frozen(baseline, config)
    pretrained = [arm for arm in config["arms"] if is_pretrained(arm, config) and (is_frozen(arm, config) or not fixed)]
    whole = [arm for arm in pretrained if not is_variant(arm, config) and is_frozen(arm, config) == fixed]
    return next(iter([*whole, *pretrained]), None)


def matched_arm(config: Config) -> str | None:
    """Return the arm from scratch that is given the compute of pretraining, if there is one."""
    matched = [arm for arm in config["arms"] if settings_of(arm, config).get("matched")]
    return next((arm for arm in matched if arm != config["baseline"]), None)


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


def worth(needed: list[LabelsNeeded], config: Config) -> list[str]:
    """Return what the main arm is worth in labels, a sentence a budget."""
    return [n.sentence() for n in needed if n.arm == main_arm(config)]


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
        owners[", ".join(sorted({*(settings_of(arm, config).get("finetuning") or {})} - {"freeze"}))].append(arm)
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
