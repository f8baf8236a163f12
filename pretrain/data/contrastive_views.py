"""Random views of images, for contrastive learning."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.data.view_settings import ViewSettings
from pretrain.network.preprocessing import unit_range
from pretrain.runs.batch_parts import drawn

LUMINANCE_WEIGHTS = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)
MAX_ASPECT_RATIO = 4 / 3  # greatest ratio of a crop's longer side to its shorter one


class Views(ViewSettings):
    """Random views: each is a resized crop, mirrored at random, with changed colors; the settings are its keywords."""

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
        draw = drawn(lambda shape: torch.rand(shape, generator=generator), (5, n), generator, dim=1)
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
        shape = 4, len(x), 1, 1, 1
        draw = drawn(lambda shape: torch.rand(shape, generator=generator), shape, generator, dim=1).to(x)
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
