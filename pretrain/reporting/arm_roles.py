"""Which arm plays which part in a comparison."""

from pretrain.runs.settings import Config
from pretrain.training.recipes import recipe_settings


def settings_of(arm: str, config: Config) -> Config:
    """Return what an arm changes."""
    return {key: value for key, value in (config["arms"][arm] or {}).items() if value is not None}


def is_frozen(arm: str, config: Config) -> bool:
    """Say whether an arm trains its head only."""
    settings = {**config["recipe"], **(settings_of(arm, config).get("recipe") or {})}
    return recipe_settings({"freeze": settings["freeze"]}).freeze  # "no" is false


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
