"""What a comparison is refused for, before any work is done."""

from collections.abc import Iterator
from dataclasses import asdict

from pretrain.comparison.plan import arm_of, stack_of
from pretrain.comparison.tasks import recipes_of, tuning_of
from pretrain.data.dataset import Dataset
from pretrain.data.splits import label_subset
from pretrain.errors import UserError, require_between
from pretrain.network.configured_layers import stage_settings
from pretrain.runs.resumption import differing_settings, first_few
from pretrain.runs.settings import Config
from pretrain.stages.stack import SAMPLE
from pretrain.training.recipes import Recipe, recipe_settings
from pretrain.training.stack_settings import build_stack


def check_comparison(config: Config) -> None:
    """Refuse what would make every run fail, or mean something else than it says, before any work is done."""
    if config["baseline"] not in config["arms"]:
        raise UserError(f"baseline={config['baseline']} is not an arm; choose one of {', '.join(config['arms'])}.")
    for name in ("labels", "seeds"):
        values = config[name]
        if not isinstance(values, list) or not values or len({*map(str, values)}) < len(values):
            raise UserError(f"{name}={values}: give a list without repeats, for example {name}=[10,20,50].")
        if wrong := [value for value in values if type(value) is not int and (name, value) != ("labels", "all")]:
            raise UserError(f"{name}={values}: {wrong[0]} is not a whole number.")
    require_between("jobs", config["jobs"], 1)
    if config["jobs"] > 1 and config["device"]["devices"] > 1:
        raise UserError("jobs and device.devices cannot both be more than 1: give one of them.")
    tuning = tuning_of(config)
    if tuning.trials != 0 and (shared := {*tuning.seeds} & {*config["seeds"]}):
        raise UserError(f"tuning.seeds and seeds share {min(shared)}: runs must not be judged by the draws of trials.")
    for name in config["arms"]:
        arm = arm_of(name, config)
        arm.check(name, len(stage_settings(config["stack"])))
        if arm.matched and not any(_usual(other, config) for other in config["arms"]):
            raise UserError(f"arms.{name}.matched: no arm is pretrained in the usual way (init: pretrained alone).")
        if unknown := arm.stack.keys() - config["stack"].keys():
            raise UserError(f"arms.{name}.stack.{min(unknown)}: a stack has only {', '.join(config['stack'])}.")
    for _, settings in _recipes(config):
        for key, asked in (("early_stopping", settings.early_stopping), ("head", settings.head != "random")):
            if asked and not config["data"]["validation"]:
                raise UserError(f"recipe.{key} needs validation images: give data.validation more than 0.")


def _recipes(config: Config) -> Iterator[tuple[str, Recipe]]:
    """Go through what each arm may be fine-tuned with, and where that comes from in the configuration."""
    for name in config["arms"]:
        own, candidates = arm_of(name, config).recipe, [{}, *tuning_of(config).candidates()]
        for tuned, recipe in zip(candidates, recipes_of(name, config, candidates), strict=True):
            where = f"arms.{name}.recipe" if own else "tuning.space" if tuned else "recipe"
            yield where, recipe_settings(recipe, where)


def check_data(config: Config, data: Dataset) -> None:
    """Refuse what does not fit the images there are."""
    for labels in config["labels"]:
        label_subset(data.train.labels, None if labels == "all" else labels, seed=0)
    if "all" in config["labels"] and len(data.train) in config["labels"]:
        raise UserError(f"labels={config['labels']}: {len(data.train)} are all; name them once.")
    if not len(data.validation) and (tuning_of(config).trials != 0 or config["probe"]):
        raise UserError("tuning and probes need validation images: give data.validation more than 0.")
    for where, settings in _recipes(config):
        try:
            settings.check_network(len(config["stack"]["stages"]), data.unlabelled.shape[1:])
        except UserError as error:
            raise UserError(f"{where}.{error}") from None
    network = _network(config["stack"], data)
    for name in config["arms"]:
        arm = arm_of(name, config)
        if (arm.pool or 0) > len(data.unlabelled):
            raise UserError(f"arms.{name}.pool={arm.pool}: there are {len(data.unlabelled):,} images.")
        if not arm.stack:
            continue
        try:
            own = _network(stack_of(name, config), data)
        except UserError as error:
            raise UserError(f"arms.{name}: {error}") from None
        if differing := differing_settings(network, own):
            changed = first_few([f"{key} is {after}, not {before}" for key, (before, after) in differing.items()])
            raise UserError(f"arms.{name}.stack changes the network, which all arms share: {changed}.")


def _usual(name: str, config: Config) -> bool:
    """Say whether an arm keeps all of everybody's pretraining."""
    arm = arm_of(name, config)
    return arm.init == "pretrained" and (arm.upto, arm.pool, arm.stack) == (None, None, {})


def _network(stack: Config, data: Dataset) -> Config:
    """Return what decides the network that a stack becomes."""
    built = build_stack(stack, data.unlabelled[:SAMPLE], seed=0).stack
    layers = {name: asdict(stage.layer.settings) for name, stage in zip(stack["stages"], built, strict=True)}
    return {key: stack[key] for key in ("preprocessing", "normalization")} | layers
