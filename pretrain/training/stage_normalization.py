"""Normalizing the layer of a trained stage, and telling what it is worth."""

import torch
from torch import Tensor

from pretrain.errors import UserError
from pretrain.runs.progress import complain
from pretrain.stages.base import Stage, activity, not_finite
from pretrain.training.diagnosis import NOT_SAVED, require_finite
from pretrain.training.recipes import Training

HEALTH_SAMPLE = 200  # images that the health of a stage is measured on
HEALTH_BYTES = 2**27  # memory that their hidden units may take: of large images there are fewer
USELESS = 0.5  # share of dead or saturated maps that the user is told of


def health_sample(stage: Stage, inputs: Tensor) -> Tensor:
    """Return those of some inputs, (N, C, H, W), that the health of a stage is measured on."""
    hidden_bytes = stage.out_channels * inputs[0, 0].numel() * 4
    return inputs[: max(1, min(HEALTH_SAMPLE, HEALTH_BYTES // hidden_bytes))]


def normalize_stage(stage: Stage, inputs: Tensor, how: str, name: str, training: Training) -> None:
    """Normalize a trained layer on a sample of its inputs, (N, C, H, W), and say so if most of its maps are useless.

    Raises
    ------
    UserError
        When the layer is dead, or its output is no finite number.
    """
    lower = f"lower learning_rate={training.learning_rate:g}"
    try:
        stage.layer.normalize(inputs, how)
    except UserError as error:
        raise UserError(f"{name}: {error}: {lower}. {NOT_SAVED}") from None
    require_finite(stage.layer, f"{name}, normalized", f"{lower}. {NOT_SAVED}")
    with torch.no_grad():
        figures = activity(stage.layer.pooled(stage.layer(health_sample(stage, inputs))).float())
    if not_finite(figures, training.learning_rate):
        raise UserError(f"{name}: its output has values that are not finite numbers: {lower}. {NOT_SAVED}")
    for kind in ("dead", "saturated"):
        if figures[kind] >= USELESS:
            complain(f"note: {name}: {figures[kind]:.0%} of its maps are {kind}: {lower}, or check its other settings")
