"""How a comparison was done, in words: told by the configuration that ran, and by nothing else."""

from typing import Any

from pretrain.comparison.paired_differences import ENOUGH
from pretrain.comparison.plan import Comparison
from pretrain.data.near_duplicates import SMALLEST_SIDE
from pretrain.data.sources import FolderData
from pretrain.evaluation.layer_features import PROBE_GRID
from pretrain.network.layer_settings import LayerSettings
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.plotting import INTERVAL_FROM
from pretrain.runs.resumption import differing_settings, flatten
from pretrain.runs.settings import Config, as_config, typed
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Recipe, Training
from pretrain.training.stack_building import stage_class

PREPROCESSING = {
    "standardize": "Pixels are standardized in each channel.",
    "whiten": "Pixels are standardized in each channel and whitened, so that neighbors are decorrelated.",
    "contrast_standardize": "Images are brought to the same brightness and contrast, and pixels are standardized in "
    "each channel.",
    "contrast_whiten": "Images are brought to the same brightness and contrast; pixels are standardized in each "
    "channel and whitened, so that neighbors are decorrelated.",
    "none": "Pixels are taken as they are, from 0 to 1.",
}
NORMALIZATION = {
    "scale": "Each layer's output is scaled to unit variance, in arms from scratch as well.",
    "standardize": "Each map of a layer's output is brought to zero mean and unit variance, from scratch as well.",
    "none": "The layers' outputs are not normalized.",
}
# These settings of a layer have words of their own.
IN_WORDS = ("out_channels", "kernel_size", "pool_kernel_size", "pool_stride")


def methods(results: Results) -> dict[str, list[str]]:
    """Return paragraphs by heading."""
    comparison = results.comparison
    return {
        "Data": [_data(results), *([_leakage(results.leakage, comparison.data.shape[1])] if results.leakage else [])],
        "Network and pretraining": [_network(comparison.stack), *_stages(comparison.stack), *_other_stages(comparison)],
        "Fine-tuning": [_finetuning(comparison)],
        "Arms": [_arms(comparison)],
        "Tuning": [_tuning(comparison)],
        "Seeds and pairing": [_pairing(comparison)],
        "Statistics": [_tests(comparison), _caveat_of_scope(results)],
        **({"Probes": [_probing()]} if comparison.probe else {}),
    }


def _data(results: Results) -> str:
    data = results.comparison.data
    channels, height, width = data.shape
    where = data.root if isinstance(data, FolderData) else data.name
    text = [f"Images of {where}, {channels}x{height}x{width}"]
    if results.classes:
        text.append(f", in {results.classes} classes")
    held_out = data.validation
    share = f"{held_out:.0%} of the" if 0 < held_out < 1 else f"{held_out:,}"
    text.append(f". {share} training images are set aside for validation, the same for all runs.")
    if results.test_images:
        text.append(f" The test split has {results.test_images:,} images.")
    whole = results.stages.loc[results.stages["num_unlabelled"].isna(), "unlabelled"]
    if len(whole):
        text.append(f" The unlabelled pool has {int(whole.iloc[0]):,}: the training images, without their labels")
        text.append(f", and those of {', '.join(data.unlabelled)}." if data.unlabelled else ".")
    return "".join(text)


def _leakage(found: Config, side: int) -> str:
    """Return what the unlabelled pool was found to share with the images that results are judged by."""
    near = ", equal or nearly so" if side >= SMALLEST_SIDE else ", equal in every pixel (small images may look alike)"
    searched = f"It was searched for copies of validation and test images{near}"
    if not found["shared"]:
        return f"{searched}: none was found."
    sets = " and ".join(
        f"{found[split]['exact'] + found[split]['near']:,} of {split} images ({found[split]['exact']:,} equal)"
        for split in ("test", "validation")
    )
    became = "They were kept" if found["kept"] else "They were left out"
    labelled = found["train_test"]["exact"] + found["train_test"]["near"]
    kept = f" {labelled:,} labelled training images are copies of test images and keep their labels in every arm."
    return f"{searched}: {found['shared']:,} of {found['pool']:,} are, {sets}. {became}.{kept if labelled else ''}"


def _network(stack: StackSettings) -> str:
    return (
        f"The stack {stack.name} has {_count(len(stack.stages), 'stage')}, each a layer of the network; a "
        f"fully connected head stands on the last. {PREPROCESSING[stack.preprocessing]} "
        f"{NORMALIZATION[stack.normalization]} Stages are trained one after the other on unlabelled images, each on "
        "the output of those below."
    )


def _stages(stack: StackSettings) -> list[str]:
    return [stage_in_words(k, settings) for k, settings in enumerate(stack.stages.values(), 1)]


def _other_stages(comparison: Comparison) -> list[str]:
    """Return what arms of another pretraining do instead: a stage of another kind in full, else what differs."""
    return [
        f"{name}, instead: {' '.join(_changed_stages(comparison.stack, comparison.stack_of(name)))}"
        for name, arm in comparison.arms.items()
        if arm.stack
    ]


def _changed_stages(base: StackSettings, own: StackSettings) -> list[str]:
    said = []
    for k, (before, after) in enumerate(zip(base.stages.values(), own.stages.values(), strict=True), 1):
        if before["_target_"] != after["_target_"]:
            said.append(stage_in_words(k, after))
        elif before != after:
            changed = [f"{key}={_value(now)}" for key, (_, now) in differing_settings(before, after).items()]
            said.append(f"Stage {k} with {', '.join(changed)}.")
    return said or ["the same."]


def stage_in_words(k: int, settings: Config) -> str:
    """Return what the k-th stage is and how it is trained, in two sentences."""
    layer = typed(LayerSettings, {"in_channels": 1, **settings["layer"]})
    width, stride, _ = layer.pool
    shape = f"{layer.out_channels} maps, filters of {layer.kernel_size}x{layer.kernel_size}"
    if width > 1:
        shape += f", pooled over {width}x{width}" + (f", {stride} apart" if width > stride else "")
    own = {key: value for key, value in settings.items() if key not in ("_target_", "layer", "training")}
    rest = {key: value for key, value in settings["layer"].items() if key not in IN_WORDS} | own
    options = ", ".join(f"{key}={_value(value)}" for key, value in flatten(rest).items() if key)
    training = typed(Training, settings.get("training", {}))
    described = f"Stage {k}: {stage_class(settings['_target_']).description}, {shape}"
    return f"{described}{f' ({options})' if options else ''}. Trained for {_optimization(training)}."


def _optimization(s: Training) -> str:
    """Return how long and how fast something learns, as a phrase that begins with the number of steps."""
    if s.optimizer == "adamw":
        optimizer = "AdamW"
    else:
        start = f", {s.initial_momentum:g} during the warm-up" if s.initial_momentum is not None else ""
        optimizer = f"SGD with {'Nesterov ' * s.nesterov}momentum {s.momentum:g}{start}"
    rise = f"rising over the first {s.warmup:.0%} of the steps, " if s.warmup else ""
    after = "then falling to zero along a cosine" if s.schedule == "cosine" else "then constant"
    return (
        f"{_count(s.steps, 'step')} on batches of {s.batch_size} by {optimizer}, learning rate {s.learning_rate:g} "
        f"({rise}{after if s.warmup else after.removeprefix('then ')}), weight decay {s.weight_decay:g}"
    )


def _finetuning(comparison: Comparison) -> str:
    s = comparison.recipe
    text = _head(s) + (_training(s) if s.steps else "Nothing is trained after that.")
    if tuned := sorted({key for candidate in comparison.tuning.candidates() for key in candidate}):
        text += f" Tuning replaces {', '.join(tuned)}."
    return text


def _training(s: Recipe) -> str:
    text = f"The assembled network is trained for {_optimization(s)}; label smoothing {s.label_smoothing:g}, dropout "
    text += f"{s.dropout:g} before the head. {_augmentation(s)}"
    if s.freeze:
        text += " Only the head learns."
    elif s.head_steps:
        text += f" Only the head learns in the first {_count(s.head_steps, 'step')}."
    if s.l2_sp:
        text += f" The layers are held to the weights that they start from (L2-SP, strength {s.l2_sp:g}), in "
        text += "place of weight decay, which the head keeps."
    if s.layer_rates != 1.0:
        text += f" The layers' learning rates are multiplied by {_value(s.layer_rates)}."
    if s.early_stopping:
        text += f" Training stops after {s.patience} validations without a rise, and goes back to the best."
    return text


def _head(s: Recipe) -> str:
    """Return how a head is fitted before training, in sentences that end with a blank; nothing of a random one."""
    if s.head == "random":
        return ""
    return (
        f"The head is fitted by {s.head} regression on the standardized outputs of the layers, of the labelled images"
        f"{' and their mirror images' if s.flip else ''}; each run chooses its penalty on the validation images, and "
        "keeps what each gave in its summary.json. "
    )


def _augmentation(s: Recipe) -> str:
    ways = [f"shifted at random by up to {_count(s.crop, 'pixel')}"] if s.crop else []
    ways += ["mirrored at random"] if s.flip else []
    ways += [f"mixed in pairs (mixup, alpha {s.mixup:g})"] if s.mixup else []
    return f"Training images are {' and '.join(ways)}." if ways else "Images are not augmented."


def _heads(comparison: Comparison) -> set[str]:
    """Return how heads begin: in the recipe, in what tuning tries and in what arms set."""
    changes = [*comparison.tuning.candidates(), *(arm.recipe for arm in comparison.arms.values())]
    return {comparison.recipe.head, *(each["head"] for each in changes if "head" in each)}


def _arms(comparison: Comparison) -> str:
    differing = "; ".join(f"{name} ({settings_in_words(as_config(arm))})" for name, arm in comparison.arms.items())
    text = f"The arms share the network, the preprocessing and the recipe, and differ in this alone: {differing}."
    if comparison.tuning.candidates():
        text += " And in what tuning chose for each."
    explained = {
        "upto": "only the first so many pretrained layers are kept, and the others begin from scratch.",
        "stack": "pretrained in another way, described above; the network is the same.",
        "num_unlabelled": "pretrained on so many unlabelled images, to which its preprocessing is fitted as well.",
        "compute_matched": "from scratch, for as many more steps as cost the floating-point operations of pretraining.",
    }
    for setting, meaning in explained.items():
        if any(getattr(arm, setting) for arm in comparison.arms.values()):
            text += f" {setting}: {meaning}"
    return text


def settings_in_words(changed: Config) -> str:
    """Return what an arm changes, as on a command line; of another stack, that it is its own."""
    flat = flatten({key: "its own" if key == "stack" else value for key, value in changed.items()})
    return ", ".join(f"{key.removeprefix('recipe.')}={_value(v)}" for key, v in flat.items() if key) or "as is"


def _tuning(comparison: Comparison) -> str:
    tuning, tried = comparison.tuning, comparison.tuning.candidates()
    if not tried:
        return "No setting was tuned: every arm ran with the recipe above, which somebody chose."
    space = " or ".join(_space(each) for each in tuning.spaces)
    drawn = "every combination" if tuning.trials is None else f"{len(tried)} combinations"
    listed = "; ".join(settings_in_words(candidate) for candidate in tried)
    which = "" if tuning.trials is None else f" They are: {listed}."
    seeds = f"{'seed' if len(tuning.seeds) == 1 else 'each of the seeds'} {_value(tuning.seeds)}"
    return (
        f"Each arm tried the same settings at each label budget, {drawn} of {space}, {len(tried)} in all, once for "
        f"{seeds}, which no run has.{which} The runs use the settings with the best mean accuracy on validation "
        "images. No trial opened the test split. What an arm sets itself is left alone."
    )


def _space(space: dict[str, list[Any]]) -> str:
    """Return the values that tuning combines, in brackets."""
    settings = [f"{key}{'=' if len(values) == 1 else ' in '}{_value(values)}" for key, values in space.items()]
    return f"({'; '.join(settings)})"


def _pairing(comparison: Comparison) -> str:
    same_head = " and start from the same head" if _heads(comparison) == {"random"} else ""
    return (
        f"Label budgets: {_value(comparison.labels)}. Seeds: {_value(comparison.seeds)}. A seed draws the labels, the "
        "initial weights, the order of images and, for pretrained arms, the pretraining. The subsets of labels are "
        f"stratified, and nested over budgets. The arms of one seed see the same labels{same_head}, so each is "
        f"compared with {comparison.baseline} seed by seed."
    )


def _tests(comparison: Comparison) -> str:
    correction = (
        f" and corrected over the {len(comparison.labels)} label budgets of an arm by Holm's method"
        if len(comparison.labels) > 1
        else ""
    )
    return (
        f"p values are of a two-sided paired t test{correction}. A verdict needs at least {ENOUGH} seeds and a "
        "corrected p below 0.05. Intervals are Student's t, not corrected; those by bootstrap (BCa) assume no normal "
        "distribution and are shown as a check: they are too narrow for few seeds. The effect is the mean difference "
        "in standard deviations of the differences, corrected for few seeds (Hedges). Detectable is the true "
        "difference that so many seeds with such a spread would find four times in five. Figures leave out the "
        f"intervals of fewer than {INTERVAL_FROM} seeds."
    )


def _caveat_of_scope(results: Results) -> str:
    images = f" ({results.test_images:,} images)" if results.test_images else ""
    return (
        f"Intervals hold the chance of labels, initial weights and training, not that of the test split{images}, "
        "which all runs share. Each finished run or probe opened it once, and nothing was chosen on it. Seconds are of "
        "training alone. A pretraining serves every pretrained arm and budget of its seed, and is charged to each."
    )


def _probing() -> str:
    return (
        "At each depth, logistic regression on the frozen, standardized features of the labelled images, averaged over "
        f"at most {PROBE_GRID}x{PROBE_GRID} positions; its penalty is chosen on validation images. Random layers are "
        "those that scratch starts from."
    )


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
