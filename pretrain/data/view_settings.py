"""The settings of random views of images, checked without importing torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pretrain.runs.setting_types import In, Share
from pretrain.runs.typed_settings import Settings


@dataclass(frozen=True)
class ViewSettings(Settings):
    """How `Views` makes random views: each is a resized crop, mirrored at random, with changed colors.

    Attributes
    ----------
    crop : float
        Least area of a crop, as a share of the image's area; 1 for no crops.
    size : float
        Sides of a view, as a share of the image's sides. A crop enlarged to the image's size shows objects larger than
        the network will see them later; a smaller view makes up for this, at less cost (Touvron et al. 2019).
    flip : bool
        Whether half of the views are mirrored left to right; wrong for digits and text.
    jitter : float
        Greatest change of brightness, contrast and saturation: each is multiplied by a factor within 1 +- jitter.
    gray : float
        Share of the views of color images that are turned gray.

    References
    ----------
    Szegedy et al. (2015), Going deeper with convolutions, CVPR, section 6 (crops);
    Chen, Kornblith, Norouzi and Hinton (2020), A simple framework for contrastive learning of visual representations,
    ICML (crops, flips and colors);
    Touvron, Vedaldi, Douze and Jegou (2019), Fixing the train-test resolution discrepancy, NeurIPS, section 3 (size).
    """

    crop: Annotated[float, In(ge=0.01, le=1)] = 0.25
    size: Annotated[float, In(ge=0.01, le=1)] = 1.0
    flip: bool = True
    jitter: Share = 0.4
    gray: Share = 0.2

    def shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the volume (C, H', W') of a view of an image of volume (C, H, W)."""
        channels, *sides = image_shape
        height, width = (max(1, round(side * self.size)) for side in sides)
        return channels, height, width
