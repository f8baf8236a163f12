"""Check that a comparison fits its images, before any work is done."""

from dataclasses import asdict
from typing import Any

from pretrain.comparison.plan import Comparison
from pretrain.data.dataset import Dataset
from pretrain.data.splits import label_subset
from pretrain.errors import UserError
from pretrain.runs.resumption import differing_settings, first_few
from pretrain.stages.stack import SAMPLE_SIZE
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.stack_building import build_stack


def check_data(comparison: Comparison, data: Dataset) -> None:
    """Refuse a comparison that does not fit its images.

    Raises
    ------
    UserError
        When there are too few labels or images, or when the stack of an arm does not fit the network.
    """
    for labels in comparison.labels:
        label_subset(data.train.labels, None if labels == "all" else labels, seed=0)
    if "all" in comparison.labels and len(data.train) in comparison.labels:
        raise UserError(f"labels={comparison.labels}: {len(data.train)} is the same budget as all; give one of them.")
    if not len(data.validation) and (comparison.tuning.trials != 0 or comparison.probe):
        raise UserError("tuning and probes need validation images: give data.validation more than 0.")
    for name, arm in comparison.arms.items():
        if (arm.num_unlabelled or 0) > len(data.unlabelled):
            raise UserError(
                f"arms.{name}.num_unlabelled={arm.num_unlabelled}: there are only {len(data.unlabelled):,} images."
            )
    _check_stacks(comparison, data)


def _check_stacks(comparison: Comparison, data: Dataset) -> None:
    """Refuse an arm whose stack would change the network, since all arms share it."""
    network = _network(comparison.stack, data)
    for name in [name for name, arm in comparison.arms.items() if arm.stack]:
        try:
            own = _network(comparison.stack_of(name), data)
        except UserError as error:
            raise UserError(f"arms.{name}: {error}") from None
        if differing := differing_settings(network, own):
            changed = first_few([f"{key} is {after}, not {before}" for key, (before, after) in differing.items()])
            raise UserError(f"arms.{name}.stack changes the network, which all arms share: {changed}.")


def _network(stack: StackSettings, data: Dataset) -> dict[str, Any]:
    """Return the settings that decide which network a stack becomes."""
    built = build_stack(stack, data.unlabelled[:SAMPLE_SIZE], seed=0).stack
    layers = {name: asdict(stage.layer.settings) for name, stage in zip(stack.stages, built, strict=True)}
    return {"preprocessing": stack.preprocessing, "normalization": stack.normalization, **layers}
