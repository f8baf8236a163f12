"""Which images make up the batch of each step."""

from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pretrain.errors import UserError
from pretrain.runs.seeding import generator


@dataclass
class BatchOrder:
    """Which images make up the batch of each step: a new permutation for each pass.

    Attributes
    ----------
    count : int
        Images.
    batch_size : int
        Images a step; the rest of a pass that fills no batch waits for another permutation.
    seed, name
        Name the draw.
    """

    count: int
    batch_size: int
    seed: int
    name: str
    _pass: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), repr=False)

    def __call__(self, step: int) -> Tensor:
        """Return positions of images, (batch_size,) or all of them where there are fewer."""
        size = min(self.batch_size, self.count)
        passes, place = divmod(step, self.count // size)
        if self._pass[0] != passes:
            draw = generator(self.seed, self.name, "order", passes)
            self._pass = passes, torch.randperm(self.count, generator=draw)
        return self._pass[1][place * size : (place + 1) * size]


def share_out(positions: Tensor, fabric: Fabric) -> Tensor:
    """Return the part of a batch that this process computes; all have equally many, so that means of parts agree.

    Raises
    ------
    UserError
        When the batch cannot be shared out equally.
    """
    if len(positions) % fabric.world_size:
        raise UserError(
            f"batches of {len(positions)} images cannot be shared out equally among device.devices="
            f"{fabric.world_size} processes: give a batch_size that can."
        )
    return positions[fabric.global_rank :: fabric.world_size]
