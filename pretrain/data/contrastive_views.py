"""Random views of images, of which two of the same image should look alike to a network that knows what matters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.errors import require_between
from pretrain.network.preprocessing import unit_range

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
ASPECT = 4 / 3  # a crop is at most so many times as wide as it is high, or the other way round


@dataclass
class Views:
    """How views are made: a crop, resized to the size of the image; mirrored; and its colors changed.

    Attributes
    ----------
    crop : float
        Least share of the image's area that a crop has, above 0; 1 for no crops.
    size : float
        Sides of a view, as a share of those of the image. Crops that are enlarged to the image's size show everything
        larger than the network will see it later, which a smaller size makes up for (Touvron et al. 2019), at less
        cost.
    flip : bool
        Mirror half of the views left to right; wrong for digits and text.
    jitter : float
        Brightness, contrast and, of color images, saturation are each multiplied by a factor within 1 +- so much.
    gray : float
        Share of the views of color images that lose their colors.

    References
    ----------
    Szegedy et al. (2015), Going deeper with convolutions, CVPR, section 6, for the crops;
    Chen, Kornblith, Norouzi and Hinton (2020), A simple framework for contrastive learning of visual representations,
    ICML, for all of them;
    Touvron, Vedaldi, Douze and Jegou (2019), Fixing the train-test resolution discrepancy, NeurIPS, section 3.
    """

    crop: float = 0.25
    size: float = 1.0
    flip: bool = True
    jitter: float = 0.4
    gray: float = 0.2

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
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
            Not changed.
        generator : torch.Generator
            On the CPU.
        """
        with torch.autocast(images.device.type, enabled=False):  # or crops are some tenths of a pixel off
            return self._recolor(self._resized_crop(unit_range(images), generator), generator)

    def _resized_crop(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Cut a rectangle out of each image, mirrored or not, and bring it to the view's size (bilinear)."""
        n = len(x)
        draw = torch.rand(5, n, generator=generator)
        area = self.crop + (1 - self.crop) * draw[0]
        widest = torch.minimum(torch.tensor(math.log(ASPECT)), -area.log())  # that still fits
        aspect = torch.exp((2 * draw[1] - 1) * widest)
        width, height = ((area * ratio).sqrt() for ratio in (aspect, 1 / aspect))  # shares of a side
        left, top = (2 * draw[2] - 1) * (1 - width), (2 * draw[3] - 1) * (1 - height)  # of the center, from -1 to 1
        sign = torch.where(draw[4] < 0.5, -1.0, 1.0) if self.flip else torch.ones(n)
        zero = torch.zeros(n)
        rows = [torch.stack(row, dim=1) for row in ((width * sign, zero, left), (zero, height, top))]
        affine = torch.stack(rows, dim=1).to(x)  # (N, 2, 3)
        grid = F.affine_grid(affine, [n, *self.shape(x.shape[1:])], align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    def _recolor(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Change brightness, contrast and saturation of each image, and take the colors of some away."""
        draw = torch.rand(4, len(x), 1, 1, 1, generator=generator).to(x)
        brightness, contrast, saturation = 1 + self.jitter * (2 * draw[:3] - 1)
        x = (x * brightness).clamp(0, 1)
        gray = _gray(x)
        mean = gray.mean(dim=(2, 3), keepdim=True)
        x = (mean + contrast * (x - mean)).clamp(0, 1)
        if x.shape[1] != len(LUMINANCE):
            return x
        gray = _gray(x)
        x = (gray + saturation * (x - gray)).clamp(0, 1)
        return torch.where(draw[3] < self.gray, gray, x)


def _gray(x: Tensor) -> Tensor:
    """Return the luminance of images, (N, 1, H, W): of any but three channels, their mean."""
    if x.shape[1] != len(LUMINANCE):
        return x.mean(dim=1, keepdim=True)
    return (x * x.new_tensor(LUMINANCE)[:, None, None]).sum(dim=1, keepdim=True)
