"""The inputs of a stage: images passed through the trained layers below it."""

import time

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.data.contrastive_views import Views
from pretrain.network.layer import Bounds
from pretrain.stages.stack import bounds_of

KEPT_BYTES = 4 * 2**30  # memory that the kept inputs of a stage may take


class Inputs:
    """The inputs of a stage: images passed through the frozen layers below it.

    They are computed for each batch anew; or all at once and kept, if the stage will draw at least as many inputs as
    there are images, if there is a layer below, and if they fit into memory.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), uint8 or in [0, 1]
        Unlabelled images.
    below : nn.Sequential
        Preprocessing and the layers below.
    fabric : Fabric
        Device and precision.
    draws : int
        How many inputs the stage will draw.

    Attributes
    ----------
    kept : Tensor, (N, C', H', W'), or None
        The inputs of all images, if they are kept. Under bfloat16 autocast they are bfloat16, exactly as the layers
        below put them out.
    seconds : float
        Time that it took to compute the kept inputs.
    """

    def __init__(self, images: Tensor, below: nn.Sequential, fabric: Fabric, draws: int):
        self.images, self.fabric = images, fabric
        self.below = below.to(fabric.device).eval()
        self.kept: Tensor | None = None
        started = time.monotonic()
        if len(below) > 1 and draws >= len(images):
            sample = self._compute(torch.arange(min(2, len(images))))
            if sample[0].numel() * sample.element_size() * len(images) <= KEPT_BYTES:
                self.kept = self._compute_all(sample)
        self.seconds = time.monotonic() - started

    @property
    def bounds(self) -> Bounds:
        """Least and greatest value that each channel can take, (C,) twice."""
        return bounds_of(self.below)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, positions: Tensor) -> Tensor:
        """Return the inputs, (n, C, H, W), float32 on the device, of the images at `positions`, (n,)."""
        x = self._compute(positions) if self.kept is None else self.kept[positions.to(self.kept.device)]
        return x.float().contiguous(memory_format=torch.channels_last)

    def views(self, positions: Tensor, views: Views, generator: torch.Generator) -> Tensor:
        """Return the inputs, (2 n, C, H, W), of two random views of each image: all first views, then all second."""
        images = self.images[positions].to(self.fabric.device)
        x = self._through(torch.cat([views(images, generator), views(images, generator)]))
        return x.float().contiguous(memory_format=torch.channels_last)

    def _compute(self, positions: Tensor) -> Tensor:
        return self._through(self.images[positions].to(self.fabric.device))

    @torch.no_grad()
    def _through(self, images: Tensor) -> Tensor:
        """Return the output of the layers below for images, (n, C, H, W)."""
        with self.fabric.autocast():
            return self.below(images.contiguous(memory_format=torch.channels_last))

    def _compute_all(self, sample: Tensor) -> Tensor:
        shape = (len(self), *sample.shape[1:])
        kept = torch.empty(shape, dtype=sample.dtype, device=sample.device, memory_format=torch.channels_last)
        for positions in torch.arange(len(self)).split(500):
            kept[positions[0] : positions[-1] + 1] = self._compute(positions)
        return kept
