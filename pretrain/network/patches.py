"""Patches of images."""

from collections.abc import Callable

import torch
from torch import Tensor

from pretrain.network.preprocessing import PIXEL_BATCH, Images


def random_patches(images: Tensor, side: int, count: int, generator: torch.Generator) -> Tensor:
    """Return patches, (count, C, side, side), each from a random position in a random one of the images, (N, C, H, W).

    They have the device and the type of the images, wherever the generator is.
    """
    number, y, x = (each.to(images.device) for each in _places(images, side, count, generator))
    return _cut(images, number, y, x, side)


def random_patches_of(
    images: Images, side: int, count: int, generator: torch.Generator, transform: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the patches that `random_patches` draws from transformed images, which are read a few at a time."""
    chunks = zip(*(each.split(PIXEL_BATCH) for each in _places(images, side, count, generator)), strict=True)
    cut = [_cut(transform(images[k]), torch.arange(len(k)), y, x, side) for k, y, x in chunks]
    return torch.cat(cut)


def _places(images: Images, side: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw the numbers of images, the rows and the columns of patches, (count,) each."""
    n, _, height, width = images.shape
    highest = (n, height - side + 1, width - side + 1)
    return [torch.randint(high, (count,), generator=generator, device=generator.device) for high in highest]


def _cut(images: Tensor, number: Tensor, y: Tensor, x: Tensor, side: int) -> Tensor:
    """Return the patches, (n, C, side, side), of images whose upper left corners are in rows y and columns x, (n,)."""
    offsets = torch.arange(side, device=images.device)
    rows, columns = y[:, None, None] + offsets[:, None], x[:, None, None] + offsets
    return images[number[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
