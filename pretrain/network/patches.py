"""Patches of images."""

import torch
from torch import Tensor


def random_patches(images: Tensor, side: int, count: int, generator: torch.Generator) -> Tensor:
    """Return patches, (count, C, side, side), each from a random position in a random one of the images, (N, C, H, W).

    They have the device and the type of the images, wherever the generator is.
    """
    n, _, height, width = images.shape
    image, y, x = (
        torch.randint(high, (count, 1, 1), generator=generator, device=generator.device).to(images.device)
        for high in (n, height - side + 1, width - side + 1)
    )
    offsets = torch.arange(side, device=images.device)
    return images[image, :, y + offsets[:, None], x + offsets].permute(0, 3, 1, 2)
