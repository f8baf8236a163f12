"""The inputs of a stage: images passed through the trained layers below it."""

import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.data.contrastive_views import Views
from pretrain.data.lazy_images import LazyImages
from pretrain.network.layer import Bounds
from pretrain.network.preprocessing import Images
from pretrain.stages.stack import bounds_of
from pretrain.training.kept_inputs import InputFile, keeping_is_cheaper

KEPT_BYTES = {"cpu": 2**28, "cuda": 2**32}  # memory that the kept inputs of a stage may take
COMPUTED_AT_ONCE = 256  # inputs


class Inputs:
    """The inputs of a stage: images passed through the frozen layers below it.

    They are computed for each batch anew; or all at once and kept, if there is a layer below, and if the stage will
    draw at least as many inputs as there are images. Those that take too much memory are kept in a file without a name,
    where a short measurement finds that cheaper than to compute them again.

    Parameters
    ----------
    images : Tensor or LazyImages, (N, C, H, W), uint8 or in [0, 1]
        Unlabelled images.
    below : nn.Sequential
        Preprocessing and the layers below.
    fabric : Fabric
        Device and precision.
    draws : int
        How many inputs the stage will draw.
    folder : Path, optional
        Where a file of kept inputs may be made; by default where the system has its temporary files.

    Attributes
    ----------
    kept : Tensor, (N, C', H', W'), or InputFile, or None
        The inputs of all images, if they are kept. Under bfloat16 autocast they are bfloat16, exactly as the layers
        below put them out.
    seconds : float
        Time that it took to compute the kept inputs.
    """

    def __init__(self, images: Images, below: nn.Sequential, fabric: Fabric, draws: int, folder: Path | None = None):
        self.images, self.fabric = images, fabric
        self.below = below.to(fabric.device).eval()
        self.kept: Tensor | InputFile | None = None
        started = time.monotonic()
        if len(below) > 1 and draws >= len(images):
            self.kept = self._room(draws, folder)
            self._keep_all()
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
        chunks = [self._kept_or_computed(chunk) for chunk in positions.split(COMPUTED_AT_ONCE)]
        x = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
        return x.float().contiguous(memory_format=torch.channels_last)

    def views(self, positions: Tensor, views: Views, generator: torch.Generator) -> Tensor:
        """Return the inputs, (2 n, C, H, W), of two random views of each image: all first views, then all second."""
        images = self.images[positions].to(self.fabric.device)
        x = self._through(torch.cat([views(images, generator), views(images, generator)]))
        return x.float().contiguous(memory_format=torch.channels_last)

    def will_need(self, positions: Tensor) -> None:
        """Have what is read from a file for the inputs at `positions`, (n,), read ahead."""
        source = self.images if self.kept is None else self.kept
        if isinstance(source, LazyImages | InputFile):
            source.will_need(positions)

    def _kept_or_computed(self, positions: Tensor) -> Tensor:
        if self.kept is None:
            return self._compute(positions)
        if isinstance(self.kept, Tensor):
            return self.kept[positions.to(self.kept.device)]
        return self.kept[positions].to(self.fabric.device)

    def _compute(self, positions: Tensor) -> Tensor:
        return self._through(self.images[positions].to(self.fabric.device))

    @torch.no_grad()
    def _through(self, images: Tensor) -> Tensor:
        """Return the output of the layers below for images, (n, C, H, W)."""
        with self.fabric.autocast():
            return self.below(images.contiguous(memory_format=torch.channels_last))

    def _room(self, draws: int, folder: Path | None) -> Tensor | InputFile | None:
        """Return where all inputs are to be kept, or None if they are to be computed for each batch."""
        sample = self._compute(torch.arange(min(2, len(self))))
        shape, row_bytes = (len(self), *sample.shape[1:]), sample[0].numel() * sample.element_size()
        if row_bytes * len(self) <= KEPT_BYTES.get(self.fabric.device.type, KEPT_BYTES["cpu"]):
            return torch.empty(shape, dtype=sample.dtype, device=sample.device, memory_format=torch.channels_last)
        try:
            file = InputFile(folder, shape, sample.dtype)
            return file if keeping_is_cheaper(self._compute, file, draws) else None
        except OSError:
            # There may be no room.
            return None

    def _keep_all(self) -> None:
        if self.kept is None:
            return
        for positions in torch.arange(len(self)).split(COMPUTED_AT_ONCE):
            self.kept[positions[0] : positions[-1] + 1] = self._compute(positions)
