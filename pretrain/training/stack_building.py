"""Build a stack from its settings."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pretrain.network.layer import Layer
from pretrain.network.preprocessing import Images
from pretrain.runs.seeding import seeded
from pretrain.runs.typed_settings import at
from pretrain.stages.base import Stage
from pretrain.stages.kind_settings import stage_class
from pretrain.stages.stack import Stack
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Training


@dataclass
class StackPlan:
    """A stack, and how each of its stages is to be trained."""

    stack: Stack
    training: list[Training]


def build_stack(settings: StackSettings, images: Images, seed: int) -> StackPlan:
    """Build the untrained stack that conf/stack/ describes, for images (N, C, H, W).

    Raises
    ------
    UserError
        When a stage or a setting is unknown or wrong, or a stage does not fit what is below it.
    """
    stages: list[Stage] = []
    with at("stack"):
        layers, trainings = settings.layers(images.shape[1]), settings.trainings()
    for name, given in settings.stages.items():
        with seeded(seed, "initialise", name), at(f"stack.stages.{name}"):
            layer = Layer(**asdict(layers[name]))
            stages.append(stage_class(given["_target_"])(layer, **vars(settings.kind(name))))
    stack = Stack(stages, images, settings.preprocessing, settings.normalization)
    return StackPlan(stack, trainings)


def blank_images(shape: tuple[int, int, int]) -> Tensor:
    """Return one black image, (1, C, H, W), to build a stack on where there is no data."""
    return torch.zeros(1, *shape, dtype=torch.uint8)
