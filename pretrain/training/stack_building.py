"""Build a stack from its settings."""

import functools
from dataclasses import asdict, dataclass

import torch
from hydra.utils import get_class
from torch import Tensor

from pretrain.errors import UserError
from pretrain.network.layer import Layer
from pretrain.runs.seeding import seeded
from pretrain.runs.typed_settings import complaints_at, typed_keywords
from pretrain.stages.base import Stage
from pretrain.stages.stack import Stack
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Training, stage_trainings


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
        When a stage or a setting is unknown or wrong, or a stage does not fit what is below it.
    """
    stages: list[Stage] = []
    layers = settings.layers(images.shape[1])
    for name, given in settings.stages.items():
        where = f"stack.stages.{name}"
        own = {key: value for key, value in given.items() if key not in ("_target_", "layer", "training")}
        with complaints_at(where):
            kind = stage_class(given["_target_"])
        with seeded(seed, "initialise", name), complaints_at(where):
            layer = Layer(**asdict(layers[name]))
            stages.append(kind(layer, **typed_keywords(functools.partial(kind, layer), own, where)))
    stack = Stack(stages, images, settings.preprocessing, settings.normalization)
    return StackPlan(stack, stage_trainings(settings))


def stage_class(target: str) -> type[Stage]:
    """Return the kind of stage that `_target_` names.

    Raises
    ------
    UserError
        When there is no such class, or it is no kind of stage.
    """
    try:
        found = get_class(target)
    except Exception as error:
        # Hydra raises several kinds of error; each means that there is no such class.
        raise UserError(f"_target_={target} is no kind of stage ({str(error).splitlines()[0]}).") from None
    if not issubclass(found, Stage):
        raise UserError(f"_target_={target} is no kind of stage: it must be a subclass of pretrain.Stage.")
    return found


def blank_images(shape: tuple[int, int, int]) -> Tensor:
    """Return one black image, (1, C, H, W), to build a stack on where there is no data."""
    return torch.zeros(1, *shape, dtype=torch.uint8)
