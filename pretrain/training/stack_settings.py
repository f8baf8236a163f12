"""From the settings of a stack to its stages."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hydra.utils import get_class
from torch import Tensor

from pretrain.errors import UserError
from pretrain.runs.seeding import seeded
from pretrain.runs.settings import complaints_at, typed, typed_keywords
from pretrain.stages.base import Stage
from pretrain.stages.stack import Stack
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Training


@dataclass
class StackPlan:
    """A stack, and how each of its stages is to be trained."""

    stack: Stack
    training: list[Training]


def build_stack(settings: StackSettings, images: Tensor, seed: int) -> StackPlan:
    """Build the untrained stack that conf/stack/ describes, for images (N, C, H, W).

    Raises
    ------
    UserError
        When a stage is unknown, or does not fit what is below it.
    """
    stages: list[Stage] = []
    training = []
    for name, given in settings.stages.items():
        where = f"stack.stages.{name}"
        below = stages[-1].out_channels if stages else images.shape[1]
        kind = functools.partial(_stage_class(given["_target_"]), below)
        keywords = {key: value for key, value in given.items() if key not in ("_target_", "training")}
        with seeded(seed, "initialise", name), complaints_at(where):
            stages.append(kind(**typed_keywords(kind, keywords, where)))
        training.append(typed(Training, given.get("training", {}), f"{where}.training"))
    options = typed_keywords(
        Stack, {"preprocessing": settings.preprocessing, "normalization": settings.normalization}, "stack"
    )
    return StackPlan(Stack(stages, images, **options), training)


def _stage_class(target: str) -> Callable[..., Stage]:
    try:
        found = get_class(target)
    except Exception as error:  # Hydra raises several kinds; each means that there is no such class
        raise UserError(f"_target_={target} is no kind of stage ({str(error).splitlines()[0]}).") from None
    if not issubclass(found, Stage):
        raise UserError(f"_target_={target} is no kind of stage: it must be a subclass of pretrain.stages.Stage.")
    return found


def blank_images(shape: tuple[int, int, int]) -> Tensor:
    """Return one black image, to build a stack on where there is no data."""
    return torch.zeros(1, *shape, dtype=torch.uint8)
