"""Dropout that draws by a named generator, and draws few bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pretrain.network.probabilistic_pooling import uniform_like
from pretrain.network.random_bits import sixteen_bits

LEVELS = 2**16  # numbers that a unit's random bits can be


class Dropout(nn.Dropout):
    """Set units to zero at random while training, and multiply the others so that the mean stays.

    Torch's own draws a real number for each unit, which takes ten times as long on a CPU.

    Attributes
    ----------
    p : float
        Share of the units that are set to zero, in [0, 1), met within 2^-17.
    generator : torch.Generator or None
        Draws the units, on their device. With None, as everywhere but in `drawing`, torch draws them by its global one.

    References
    ----------
    Srivastava et al. (2014), Dropout: a simple way to prevent neural networks from overfitting, JMLR 15.
    """

    generator: torch.Generator | None = None

    @contextmanager
    def drawing(self, generator: torch.Generator) -> Iterator[None]:
        """Draw the units by a generator within the block."""
        self.generator = generator
        try:
            yield
        finally:
            self.generator = None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (N, ...), with units dropped while training."""
        if self.generator is None or not self.training or not self.p:
            return super().forward(x)
        return x * self._factors(x, self.generator)

    def _factors(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return zero for the units that are dropped, and what multiplies the others, in the shape of `x`."""
        if x.device.type != "cpu":
            # On a GPU real numbers cost nothing, and not every GPU has all kinds of whole ones.
            return (uniform_like(x, generator) >= self.p).to(x.dtype).div_(1 - self.p)
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        kept = sixteen_bits(x, generator) >= dropped - LEVELS // 2
        return kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
