"""Find the settings that differ from those in a run's folder, which prevent it from being resumed."""

from collections.abc import Iterable
from typing import Any

from pretrain.runs.typed_settings import Config

# What the digests in the settings of a run are of.
DIGESTS = {
    "data_digest": "the images to learn from, their labels or the validation images",
    "labelled_digest": "the labelled images or the test images",
    "stages_digest": "the trained stages",
}


def differences(there: Config, wanted: Config, ignore: Iterable[str] = ()) -> list[str]:
    """Return a phrase for each setting that differs: its dotted path and both values, or what a digest is of."""
    ignored = tuple(f"{key}." for key in ignore)
    return [
        f"{DIGESTS[key]} are not the same" if key in DIGESTS else f"{key} is {before} there and {after} here"
        for key, (before, after) in differing_settings(there, wanted).items()
        if not f"{key}.".startswith(ignored)
    ]


def differing_settings(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ by their dotted paths, with both values, "not set" for a missing one."""
    one, other = flatten(before), flatten(after)
    pairs = {key: (one.get(key, "not set"), other.get(key, "not set")) for key in {**one, **other}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def first_few(differing: list[str]) -> str:
    """Join phrases, up to five of them, and the number of those left out."""
    more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
    return "; ".join(differing[:5]) + more


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as a flat dict by their dotted paths."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
