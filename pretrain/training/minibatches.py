"""Which images make up the batch of each step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretrain.runs.seeding import generator


@dataclass
class BatchOrder:
    """Which images make up the batch of each step: a new permutation for each pass.

    Attributes
    ----------
    count : int
        Number of images.
    batch_size : int
        Images per step. The images at the end of a permutation that fill no batch are left out of that pass.
    seed : int
        Seed of the run.
    name : str
        Phase of the run, which names the draws.
    """

    count: int
    batch_size: int
    seed: int
    name: str
    _pass: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), repr=False)

    def __call__(self, step: int) -> Tensor:
        """Return the positions of the images of one batch, (batch_size,), or of all images if there are fewer."""
        size = min(self.batch_size, self.count)
        passes, place = divmod(step, self.count // size)
        if self._pass[0] != passes:
            draw = generator(self.seed, self.name, "order", passes)
            self._pass = passes, torch.randperm(self.count, generator=draw)
        return self._pass[1][place * size : (place + 1) * size]
