"""A stack: stages one above the other, and how the images are brought to the first of them."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.data.contrastive_views import Views
from pretrain.errors import UserError, choose
from pretrain.network.layer import Bounds, Layer
from pretrain.network.layer_settings import NORMALIZATIONS, LayerSettings
from pretrain.network.preprocessing import Images, Standardize
from pretrain.network.shapes import PREPROCESSINGS, layer_rows
from pretrain.network.whitening import FIT_PREPROCESSING
from pretrain.stages.base import Stage

SAMPLE_SIZE = 1000  # unlabelled images on which a layer is normalized and a stage prepared


def bounds_of(below: nn.Sequential) -> Bounds:
    """Return the least and the greatest value, (C,) twice, of each channel of the output of `Stack.below`."""
    last = below[-1]
    assert isinstance(last, Standardize | Layer)
    return last.bounds


class Stack(nn.Module):
    """Stages from the input upwards, above preprocessed images.

    Parameters
    ----------
    stages : iterable of Stage
        Each takes as many channels as the one below puts out.
    images : Tensor or LazyImages, (N, C, H, W)
        Unlabelled images, uint8 or in [0, 1], for their shape and statistics.
    preprocessing : {"standardize", "whiten", "contrast_standardize", "contrast_whiten", "none"}
        Zero mean and unit variance in each channel; neighboring pixels decorrelated as well; either of the two after
        each image was brought to the same brightness and contrast; or pixels from 0 to 1 as they are.
    normalization : {"scale", "standardize", "none"}
        How the output of a layer that has learned is normalized for what is built on it: unit variance; zero mean and
        unit variance in each map; not at all.

    Raises
    ------
    UserError
        When a stage or its views do not fit what is below it, or there is no such preprocessing.
    """

    def __init__(
        self,
        stages: Iterable[Stage],
        images: Images,
        preprocessing: str = "standardize",
        normalization: str = "scale",
    ):
        super().__init__()
        choose("stack.preprocessing", preprocessing, PREPROCESSINGS)
        self.stages = nn.ModuleList(stages)
        self.image_shape: tuple[int, int, int] = tuple(images.shape[1:])  # type: ignore[assignment]
        choose("stack.normalization", normalization, NORMALIZATIONS)
        self.normalization = normalization
        self.preprocessing = FIT_PREPROCESSING[preprocessing](images)
        layers = {f"stage {k}": stage.layer.settings for k, stage in enumerate(self, 1)}
        layer_rows(layers, self.image_shape)
        for k, stage in enumerate(self, 1):
            if stage.views:
                self._check_views(k, stage.views, dict(list(layers.items())[:k]))

    def _check_views(self, k: int, views: Views, layers: dict[str, LayerSettings]) -> None:
        """Refuse views that are too small for the first `k` layers."""
        try:
            layer_rows(layers, views.shape(self.image_shape))
        except UserError as error:
            raise UserError(
                f"stage {k}, views.size={views.size}: views do not fit through the layers: {error}"
            ) from None

    def __iter__(self) -> Iterator[Stage]:
        """Go through the stages, from the input upwards."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Stage:
        """Return the stage at `position`, counted from 0 at the input."""
        stage = self.stages[position]
        assert isinstance(stage, Stage)
        return stage

    def __len__(self) -> int:
        """Return how many stages there are."""
        return len(self.stages)

    def below(self, position: int) -> nn.Sequential:
        """Return the preprocessing and the layers below the stage at `position`, counted from 0."""
        return nn.Sequential(self.preprocessing, *(stage.layer for stage in list(self)[:position]))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, upto: int) -> Tensor:
        """Encode images through the first `upto` stages and decode them again: pixels in [0, 1].

        Raises
        ------
        NotImplementedError
            When one of these stages has no decoder.
        """
        x, contexts = self._encode(images, upto)
        return self._decode(x, contexts)

    @torch.no_grad()
    def sample(self, images: Tensor, upto: int, steps: int, generator: torch.Generator) -> Tensor:
        """Run a chain of the last of the first `upto` stages from images, and decode its state: pixels in [0, 1].

        Raises
        ------
        NotImplementedError
            When that stage is no model to draw from, or one below it has no decoder, or needs more than its output to
            decode: with the switches of an image, whatever was drawn would be decoded to something like the image.
        """
        x, contexts = self._encode(images, upto - 1)
        if any(context is not None for context in contexts):
            raise NotImplementedError
        return self._decode(self[upto - 1].sample(x, steps, generator), contexts)

    def _encode(self, images: Tensor, upto: int) -> tuple[Tensor, list[Any]]:
        x, contexts = self.preprocessing(images), []
        for stage in list(self)[:upto]:
            x, context = stage.encode(x)
            contexts.append(context)
        return x, contexts

    def _decode(self, x: Tensor, contexts: list[Any]) -> Tensor:
        for stage, context in reversed(list(zip(self, contexts, strict=False))):
            x = stage.decode(x, context)
        return self.preprocessing.inverse(x)
