"""Random views of images, for contrastive learning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.errors import require_between
from pretrain.network.preprocessing import unit_range

LUMINANCE_WEIGHTS = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)
MAX_ASPECT_RATIO = 4 / 3  # greatest ratio of a crop's longer side to its shorter one


@dataclass
class Views:
    """Random views: each is a resized crop, mirrored at random, with changed colors.

    Attributes
    ----------
    crop : float
        Least area of a crop, as a share of the image's area, above 0; 1 for no crops.
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

    crop: float = 0.25
    size: float = 1.0
    flip: bool = True
    jitter: float = 0.4
    gray: float = 0.2

    def __post_init__(self) -> None:
        """Reject values outside their ranges."""
        require_between("crop", self.crop, 0.01, 1)
        require_between("size", self.size, 0.01, 4)
        require_between("jitter", self.jitter, 0, 1)
        require_between("gray", self.gray, 0, 1)

    def shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the volume (C, H', W') of a view of an image of volume (C, H, W)."""
        channels, *sides = image_shape
        height, width = (max(1, round(side * self.size)) for side in sides)
        return channels, height, width

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a view of each image, (N, C, H', W'), float32 in [0, 1].

        Parameters
        ----------
        images : Tensor, (N, C, H, W), uint8 or in [0, 1]
            Images, left unchanged.
        generator : torch.Generator
            Generator on the CPU.
        """
        # Lower precision would move the crops by some tenths of a pixel.
        with torch.autocast(images.device.type, enabled=False):
            return self._recolor(self._resized_crop(unit_range(images), generator), generator)

    def _resized_crop(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Crop a random rectangle of each image, mirror some, and resize it to the view's size (bilinear)."""
        n = len(x)
        draw = torch.rand(5, n, generator=generator)
        area = self.crop + (1 - self.crop) * draw[0]
        # A crop must not be wider or higher than the image.
        widest = torch.minimum(torch.tensor(math.log(MAX_ASPECT_RATIO)), -area.log())
        aspect = torch.exp((2 * draw[1] - 1) * widest)
        width, height = ((area * ratio).sqrt() for ratio in (aspect, 1 / aspect))  # shares of a side
        left, top = (2 * draw[2] - 1) * (1 - width), (2 * draw[3] - 1) * (1 - height)  # center, from -1 to 1
        sign = torch.where(draw[4] < 0.5, -1.0, 1.0) if self.flip else torch.ones(n)
        zero = torch.zeros(n)
        rows = [torch.stack(row, dim=1) for row in ((width * sign, zero, left), (zero, height, top))]
        affine = torch.stack(rows, dim=1).to(x)  # (N, 2, 3)
        grid = F.affine_grid(affine, [n, *self.shape(x.shape[1:])], align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    def _recolor(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Change brightness, contrast and saturation of each image, and turn some images gray."""
        draw = torch.rand(4, len(x), 1, 1, 1, generator=generator).to(x)
        brightness, contrast, saturation = 1 + self.jitter * (2 * draw[:3] - 1)
        x = (x * brightness).clamp(0, 1)
        gray = _gray(x)
        mean = gray.mean(dim=(2, 3), keepdim=True)
        x = (mean + contrast * (x - mean)).clamp(0, 1)
        if x.shape[1] != len(LUMINANCE_WEIGHTS):
            return x
        gray = _gray(x)
        x = (gray + saturation * (x - gray)).clamp(0, 1)
        return torch.where(draw[3] < self.gray, gray, x)


def _gray(x: Tensor) -> Tensor:
    """Return the luminance of RGB images, and the mean over channels of any others, (N, 1, H, W)."""
    if x.shape[1] != len(LUMINANCE_WEIGHTS):
        return x.mean(dim=1, keepdim=True)
    return (x * x.new_tensor(LUMINANCE_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True)
