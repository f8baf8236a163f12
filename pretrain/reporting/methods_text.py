"""Methods text of a report: how the comparison was done, according to the configuration that ran."""

from typing import Any

from pretrain.comparison.paired_differences import SEEDS_FOR_A_CLAIM
from pretrain.comparison.plan import AUTO, Comparison
from pretrain.data.fingerprints import SMALLEST_SIDE
from pretrain.evaluation.layer_features import PROBE_GRID
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.compute_text import compute_paragraphs
from pretrain.reporting.plotting import INTERVAL_FROM
from pretrain.reporting.settings_in_words import counted, enumeration, settings_in_words, value_in_words
from pretrain.reporting.training_text import finetuning_paragraph, pretraining_paragraphs
from pretrain.runs.typed_settings import Config, as_config

# These settings of an arm are explained where an arm has them.
ARM_SETTINGS = {
    "upto": "is the number of pretrained layers that are kept; the layers above them start from scratch.",
    "stack": "marks a pretraining of its own, described above; the network is the same.",
    "num_unlabelled": "is the number of unlabelled images for pretraining and for fitting the preprocessing.",
    "compute_matched": "marks training from scratch with extra steps that cost as many floating-point "
    "operations as pretraining.",
}

# What a seed draws, by the names that the setting hold has for it.
DRAWS = {
    "labels": "the labelled images",
    "weights": "the initial weights",
    "order": "the order of images (with augmentation and dropout)",
    "pretraining": "the pretraining of pretrained arms",
}


def methods(results: Results) -> dict[str, list[str]]:
    """Return the paragraphs of the methods text by heading."""
    comparison = results.comparison
    return {
        "Data": [_data(results), *([_leakage(results.leakage, comparison.data.shape[1])] if results.leakage else [])],
        "Network and pretraining": pretraining_paragraphs(comparison),
        "Fine-tuning": [finetuning_paragraph(comparison)],
        "Arms": [_arms(comparison)],
        "Tuning": [_tuning(comparison)],
        "Seeds and pairing": [_pairing(comparison), *_looks(comparison)],
        "Statistics": [_tests(results), _scope(results), *_by_class(results)],
        **({"Total compute": compute_paragraphs(comparison)} if len(comparison.compute) > 1 else {}),
        **({"Probes": [_probing()]} if comparison.probe else {}),
    }


def _data(results: Results) -> str:
    data = results.comparison.data
    channels, height, width = data.shape
    text = [f"The data set is {data.title}, with images of {channels}x{height}x{width} (channels, height, width)"]
    if results.classes:
        text.append(f", in {results.classes} classes")
    held_out = data.validation
    share = f"{held_out:.0%} of the" if 0 < held_out < 1 else f"{held_out:,}"
    drawn = f"{share} training images are set aside for validation"
    given = f"Validation images are those that come with the data, or else {drawn}"
    text.append(f". {drawn if data.draws_validation else given}, the same for all runs.")
    if results.test_images:
        chosen = ", chosen in each class by the images' content" if getattr(data, "test", None) is not None else ""
        text.append(f" The test split has {results.test_images:,} images{chosen}.")
    whole = results.stages.loc[results.stages["num_unlabelled"].isna(), "unlabelled"]
    if len(whole):
        text.append(f" The unlabelled pool has {int(whole.iloc[0]):,}: the training images, without their labels")
        text.append(f", and those of {', '.join(data.pool_titles)}." if data.pool_titles else ".")
    return "".join(text)


def _leakage(found: Config, side: int) -> str:
    """Return what the unlabelled pool shares with validation and test images, which have sides of `side` pixels."""
    exact = "equal in every pixel, since different images of this size may look nearly equal"
    criterion = "equal or nearly equal" if side >= SMALLEST_SIDE else exact
    searched = f"The pool was searched for copies of validation and test images ({criterion})"
    if not found["shared"]:
        return f"{searched}: none was found."
    sets = " and ".join(
        f"{found[split]['exact'] + found[split]['near']:,} of {split} images ({found[split]['exact']:,} equal)"
        for split in ("test", "validation")
    )
    became = "The copies were kept." if found["kept"] else "The copies were left out."
    labelled = found["train_test"]["exact"] + found["train_test"]["near"]
    kept = f" Labelled training images that are copies of test images ({labelled:,}) keep their labels in every arm."
    return (
        f"{searched}: {found['shared']:,} of {found['pool']:,} are copies, {sets}. {became}{kept if labelled else ''}"
    )


def _arms(comparison: Comparison) -> str:
    differing = "; ".join(f"{name} ({settings_in_words(as_config(arm))})" for name, arm in comparison.arms.items())
    apart = "Apart from what tuning chose for each, they" if comparison.tuning.candidates() else "They"
    text = f"The arms share the network, the preprocessing and the recipe. {apart} differ only in these settings: "
    text += f"{differing}."
    for setting, meaning in ARM_SETTINGS.items():
        if any(getattr(arm, setting) for arm in comparison.arms.values()):
            text += f" The setting {setting} {meaning}"
    return text


def _tuning(comparison: Comparison) -> str:
    tuning, tried = comparison.tuning, comparison.tuning.candidates()
    if not tried:
        return "No setting was tuned. Every arm ran with the recipe above, which was chosen by hand."
    space = " or ".join(_space(each) for each in tuning.spaces)
    drawn = "every combination of" if tuning.trials is None else "taken from"
    listed = "; ".join(settings_in_words(candidate) for candidate in tried)
    which = "" if tuning.trials is None else f" They are: {listed}."
    seeds = f"{'seed' if len(tuning.seeds) == 1 else 'each of the seeds'} {value_in_words(tuning.seeds)}"
    return (
        f"Each arm tried the same {counted(len(tried), 'combination')} of settings at each label budget, {drawn} "
        f"{space}. Each combination ran once for {seeds}, which no run that counts has.{which} The runs use the "
        "combination with the best mean accuracy on validation images. No trial opened the test split. Settings that "
        "an arm sets itself were not tuned."
    )


def _space(space: dict[str, list[Any]]) -> str:
    """Return the values that tuning combines, in parentheses."""
    settings = [f"{key}{'=' if len(values) == 1 else ' in '}{value_in_words(values)}" for key, values in space.items()]
    return f"({'; '.join(settings)})"


def _pairing(comparison: Comparison) -> str:
    drawn, held = draws_in_words(comparison)
    shared = f" All seeds share {enumeration(held)}, as seed {comparison.seeds_in_use[0]} draws them." if held else ""
    same_head = " and start from the same head" if _heads(comparison) == {"random"} else ""
    seeds = value_in_words(comparison.seeds_in_use)
    return (
        f"Label budgets: {value_in_words(comparison.labels)}. Seeds: {seeds}. A seed draws "
        f"{enumeration(drawn)}.{shared} The "
        "labelled subsets are stratified by class and nested over budgets. The arms of one seed see the same "
        f"labels{same_head}, so each is compared with {comparison.baseline} seed by seed."
    )


def draws_in_words(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Return what each seed draws anew, and what all seeds share."""
    drawn = [words for source, words in DRAWS.items() if source not in comparison.hold]
    return drawn, [words for words in DRAWS.values() if words not in drawn]


def _looks(comparison: Comparison) -> list[str]:
    """Return the rule that ended a comparison with seeds=auto."""
    if comparison.seeds != AUTO:
        return []
    looks = comparison.looks
    return [
        f"The number of seeds was not fixed (seeds=auto). Looks were planned after {enumeration(looks.seeds)} seeds. "
        "At each, the comparison went on while the interval of the difference between "
        f"{comparison.main_arm} and {comparison.baseline} reached more than {comparison.half_width:g} points to each "
        f"side at some label budget. Every look tests at the same level (Pocock 1977), {looks.level:.2%}, so low that "
        "all looks together find a difference where there is none 5 times in 100. It was found by simulating t tests "
        "with so few seeds. Corrected p values are the probability that any look gives so small a p value. Intervals "
        "of differences are repeated confidence intervals (Jennison and Turnbull 1989): 95 in 100 comparisons have the "
        "true difference in those of all looks, whatever ended them. Intervals of single arms, and of the labels "
        "needed, are not corrected for the looks."
    ]


def _heads(comparison: Comparison) -> set[str]:
    """Return the ways in which heads start: in the recipe, in the candidates of tuning, and in the arms."""
    changes = [*comparison.tuning.candidates(), *(arm.recipe for arm in comparison.arms.values())]
    return {comparison.recipe.head, *(each["head"] for each in changes if "head" in each)}


def _tests(results: Results) -> str:
    budgets = len(results.comparison.labels)
    correction = f", corrected by Holm's method over the {budgets} label budgets of an arm" if budgets > 1 else ""
    kept = _predictions_kept(results)
    uncorrected = ", and none is corrected" if results.comparison.seeds != AUTO else ""
    tests = f"The p values come from a two-sided paired t test{correction}."
    crossed = (
        "The p values are two-sided, for the hypothesis that two arms are equally accurate over all seeds and all test "
        f"images{correction}. Seeds and test images are crossed random effects (Dorfman, Berbaum and Metz 1992). The "
        "variance of a mean difference is that of one seed divided by the number of seeds, plus what the images add, "
        "estimated from the predictions of each run. Degrees of freedom follow Hillis (2007). No p is below that of a "
        "paired t test over seeds, and no interval is narrower."
    )
    return (
        f"{crossed if kept else tests} A verdict needs at least {SEEDS_FOR_A_CLAIM} seeds and a corrected p below "
        f"0.05. Intervals{' for new seeds' if kept else ''} are Student's t intervals{uncorrected}. The "
        "effect is the mean difference in standard deviations of the differences over seeds, corrected for few seeds "
        "(Hedges). "
        f"The detectable difference is the true difference that so many seeds{' and images' if kept else ''}, with "
        f"this spread, would find four times in five. {_efficiency(results)}"
        f"Figures show no interval for fewer than {INTERVAL_FROM} seeds."
    )


def _efficiency(results: Results) -> str:
    """Say how the intervals of the label efficiency are made, where there is one."""
    if len(results.comparison.labels) < 2:
        return ""
    moved = ", and each resample moves the means as other test images would" if _predictions_kept(results) else ""
    return (
        "The intervals of the label efficiency come from resampled seeds, with percentiles widened for their small "
        f"number{moved}. "
    )


def _predictions_kept(results: Results) -> bool:
    """Return whether runs keep their predictions, which only those of an earlier version do not."""
    return not len(results.runs) or bool(results.runs["correct"].notna().any())


def _scope(results: Results) -> str:
    chosen = "nothing but the number of seeds" if results.comparison.seeds == AUTO else "nothing"
    served = "all seeds" if "pretraining" in results.comparison.hold else "its seed"
    return (
        f"{_drawn_anew(results)} Each finished run or probe opened the test split once, and {chosen} was chosen on it. "
        f"Seconds count training alone. One pretraining serves every pretrained arm and budget of {served}, and its "
        "full cost is charged to each of them."
    )


def _drawn_anew(results: Results) -> str:
    """Say what the intervals account for."""
    drawn, held = draws_in_words(results.comparison)
    shared = f", but not of {enumeration(held)}, which all seeds share" if held else ""
    seeds = f"account for the random draw of {enumeration(drawn)}{shared}"
    split = f"the choice of the test split{f' ({results.test_images:,} images)' if results.test_images else ''}"
    if not _predictions_kept(results):
        return f"Intervals {seeds}. They do not account for {split}, which all runs share."
    return (
        f"Intervals for new seeds {seeds}. Intervals for new seeds and images also account for {split}, which all runs "
        "share. They take it as a random sample of such images, drawn one by one."
    )


def _by_class(results: Results) -> list[str]:
    """Return how classes are compared, where runs kept their predictions."""
    if results.comparison.main_arm is None or results.test_labels is None:
        return []
    return [
        "Differences by class are differences in recall, paired by seed and image. Their intervals and p values hold "
        "for other seeds and other test images of the class (crossed random effects), and are never narrower or "
        "smaller than over seeds alone. The p values are corrected by Holm's method over the classes of a label "
        "budget, but not over budgets. Figures of classes and of single images show the label budget where the two "
        "arms differ on most test images."
    ]


def _probing() -> str:
    return (
        "At each depth, a logistic regression is fitted to the frozen, standardized features of the labelled images, "
        f"averaged over at most {PROBE_GRID}x{PROBE_GRID} positions. Its penalty is chosen on validation images. "
        "Random layers are those that scratch starts from."
    )
