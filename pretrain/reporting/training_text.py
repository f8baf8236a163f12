"""Methods text on training: the network, the pretraining of its stages, and fine-tuning."""

from pretrain.comparison.plan import Comparison
from pretrain.network.layer_settings import LayerSettings
from pretrain.reporting.settings_in_words import counted, enumeration, value_in_words
from pretrain.runs.resumption import differing_settings, flatten
from pretrain.runs.typed_settings import Config, typed
from pretrain.stages.kind_settings import stage_class
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Recipe, Training

PREPROCESSING = {
    "standardize": "Pixels are standardized in each channel.",
    "whiten": "Pixels are standardized in each channel and whitened, so that neighbors are decorrelated.",
    "contrast_standardize": "All images are brought to the same brightness and contrast, and pixels are standardized "
    "in each channel.",
    "contrast_whiten": "All images are brought to the same brightness and contrast. Pixels are standardized in each "
    "channel and whitened, so that neighbors are decorrelated.",
    "none": "Pixels keep their values, from 0 to 1.",
}
NORMALIZATION = {
    "scale": "The output of each layer is scaled to unit variance, in arms from scratch as well.",
    "standardize": "Each map in the output of a layer is brought to zero mean and unit variance, in arms from scratch "
    "as well.",
    "none": "The outputs of the layers are not normalized.",
}
# The description of a stage has words for these settings of its layer.
LAYER_SETTINGS_IN_WORDS = ("out_channels", "kernel_size", "pool_kernel_size", "pool_stride")


def pretraining_paragraphs(comparison: Comparison) -> list[str]:
    """Return what the network is and how its stages are trained, a paragraph for each stage and each changed stack."""
    stack = comparison.stack
    stages = [stage_in_words(k, settings) for k, settings in enumerate(stack.stages.values(), 1)]
    return [_network(stack), *stages, *_changed_stacks(comparison)]


def _network(stack: StackSettings) -> str:
    return (
        f"The stack {stack.name} has {counted(len(stack.stages), 'stage')}. Each stage is a layer of the network, and "
        f"a fully connected head follows the last layer. {PREPROCESSING[stack.preprocessing]} "
        f"{NORMALIZATION[stack.normalization]} Stages are trained one after the other on unlabelled images, each on "
        "the output of the trained layers below it."
    )


def _changed_stacks(comparison: Comparison) -> list[str]:
    """Return how the pretraining of other arms differs: a stage of another kind in full, else its changed settings."""
    return [
        f"Pretraining of {name} differs: {' '.join(_changed_stages(comparison.stack, comparison.stack_of(name)))}"
        for name, arm in comparison.arms.items()
        if arm.stack
    ]


def _changed_stages(base: StackSettings, own: StackSettings) -> list[str]:
    sentences = []
    for k, (before, after) in enumerate(zip(base.stages.values(), own.stages.values(), strict=True), 1):
        if before["_target_"] != after["_target_"]:
            sentences.append(stage_in_words(k, after))
        elif before != after:
            changed = [f"{key}={value_in_words(now)}" for key, (_, now) in differing_settings(before, after).items()]
            sentences.append(f"Stage {k} has {', '.join(changed)}.")
    return sentences or ["no stage has other settings."]


def stage_in_words(k: int, settings: Config) -> str:
    """Return what stage k, counted from 1, is and how it is trained, in two sentences."""
    layer = typed(LayerSettings, {"in_channels": 1, **settings["layer"]})
    window, stride, _ = layer.pool
    shape = f"{layer.out_channels} maps, filters of {layer.kernel_size}x{layer.kernel_size}"
    if window > 1:
        shape += f", pooled over {window}x{window}" + (f" with stride {stride}" if window > stride else "")
    own = {key: value for key, value in settings.items() if key not in ("_target_", "layer", "training")}
    rest = {key: value for key, value in settings["layer"].items() if key not in LAYER_SETTINGS_IN_WORDS} | own
    options = ", ".join(f"{key}={value_in_words(value)}" for key, value in flatten(rest).items() if key)
    training = typed(Training, settings.get("training", {}))
    described = f"Stage {k}: {stage_class(settings['_target_']).description}, {shape}"
    return f"{described}{f' ({options})' if options else ''}. It is trained for {_optimization(training)}."


def _optimization(s: Training) -> str:
    """Return how long and at which rates training runs, as a phrase that begins with the number of steps."""
    if s.optimizer == "adamw":
        optimizer = "AdamW"
    else:
        warm_up = f" ({s.initial_momentum:g} during the warm-up)" if s.initial_momentum is not None else ""
        optimizer = f"SGD with {'Nesterov ' * s.nesterov}momentum {s.momentum:g}{warm_up}"
    rise = f"rising over the first {s.warmup:.0%} of the steps, " if s.warmup else ""
    after = "then falling to zero along a cosine" if s.schedule == "cosine" else "then constant"
    return (
        f"{counted(s.steps, 'step')} on batches of {s.batch_size} by {optimizer}, learning rate {s.learning_rate:g} "
        f"({rise}{after if s.warmup else after.removeprefix('then ')}), weight decay {s.weight_decay:g}"
    )


def finetuning_paragraph(comparison: Comparison) -> str:
    """Return how the assembled network is fine-tuned, and which settings tuning replaces."""
    s = comparison.recipe
    text = _fitted_head(s) + (_finetuning(s) if s.steps else "There is no training after that.")
    if tuned := sorted({key for candidate in comparison.tuning.candidates() for key in candidate}):
        text += f" Tuning replaces {enumeration(tuned)}."
    return text


def _finetuning(s: Recipe) -> str:
    text = f"The assembled network is trained for {_optimization(s)}, label smoothing {s.label_smoothing:g}, dropout "
    text += f"{s.dropout:g} before the head. {_augmentation(s)}"
    if s.freeze:
        text += " Only the head learns."
    elif s.head_steps:
        text += f" Only the head learns in the first {counted(s.head_steps, 'step')}."
    if s.l2_sp:
        text += (
            f" The weights of the layers are held to their starting point (L2-SP, strength {s.l2_sp:g}) in place of "
        )
        text += "weight decay, which the head keeps."
    if s.layer_rates != 1.0:
        text += f" The learning rates of the layers are multiplied by {value_in_words(s.layer_rates)}."
    if s.early_stopping:
        text += f" Training stops after {s.patience} validations without a rise and returns to the best weights."
    return text


def _fitted_head(s: Recipe) -> str:
    """Return how a head is fitted before training, in sentences that end with a blank; nothing for a random head."""
    if s.head == "random":
        return ""
    return (
        f"The head is fitted by {s.head} regression on the standardized outputs of the layers for the labelled images"
        f"{' and their mirror images' if s.flip else ''}. Each run chooses the penalty on the validation images and "
        "records the accuracy of every penalty in its summary.json. "
    )


def _augmentation(s: Recipe) -> str:
    ways = [f"shifted at random by up to {counted(s.crop, 'pixel')}"] if s.crop else []
    ways += ["mirrored at random"] if s.flip else []
    ways += [f"mixed in pairs (mixup, alpha {s.mixup:g})"] if s.mixup else []
    return f"Training images are {enumeration(ways)}." if ways else "Images are not augmented."
