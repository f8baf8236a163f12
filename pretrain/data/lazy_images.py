"""Images that are read when they are asked for, in place of a tensor of all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.fingerprints import FINGERPRINT, fingerprints
from pretrain.data.row_files import RowFile


@dataclass
class Part:
    """Images in one place.

    Attributes
    ----------
    images : Tensor, (n, C, H, W), or RowFile of rows (H, W, C)
        The images, uint8.
    known : ndarray of FINGERPRINT, (n,), optional
        Their fingerprints, if they are known already.
    """

    images: Tensor | RowFile
    known: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def volume(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image."""
        shape = self.images.shape
        channels, height, width = shape[1:] if isinstance(self.images, Tensor) else (shape[2], *shape[:2])
        return channels, height, width

    def read(self, positions: Tensor) -> Tensor:
        """Return the images at positions, (n,)."""
        if isinstance(self.images, Tensor):
            return self.images[positions]
        return torch.from_numpy(self.images.read(positions.numpy())).permute(0, 3, 1, 2)

    def prints(self) -> np.ndarray:
        """Return the fingerprints of all images, which are computed once."""
        if self.known is None:
            self.known = fingerprints(LazyImages([self]))
        return self.known


class LazyImages:
    """Images, (N, C, H, W), uint8, of which a batch at a time is read. They are indexed as a tensor is.

    Parameters
    ----------
    parts : sequence of Part
        Images that follow each other.
    positions : Tensor, (N,), int64, optional
        Which of them there are, and in which order; all by default.
    """

    dtype = torch.uint8

    def __init__(self, parts: Sequence[Part], positions: Tensor | None = None):
        self.parts = list(parts)
        self._starts = torch.tensor([0, *map(len, parts)]).cumsum(0)
        self.positions = torch.arange(int(self._starts[-1])) if positions is None else positions

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The number of images, their channels, height and width."""
        return (len(self), *self.parts[0].volume)

    @property
    def nbytes(self) -> int:
        """The memory that all images would take."""
        count, channels, height, width = self.shape
        return count * channels * height * width

    @property
    def prints(self) -> np.ndarray:
        """The fingerprints of the images, (N,), of the type `FINGERPRINT`."""
        prints = np.empty(len(self), dtype=FINGERPRINT)
        for part, chosen, rows in self._by_part(self.positions):
            prints[chosen.numpy()] = part.prints()[rows.numpy()]
        return prints

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.positions)

    def __getitem__(self, key: Tensor | slice | int) -> Tensor:
        """Return the images at positions, (n,), or of a slice: (n, C, H, W), channels last; or one image."""
        if isinstance(key, int):
            return self[torch.tensor([key])][0]
        wanted = self.positions[key]
        shape = (len(wanted), *self.shape[1:])
        images = torch.empty(shape, dtype=self.dtype, memory_format=torch.channels_last)
        for part, chosen, rows in self._by_part(wanted):
            images[chosen] = part.read(rows)
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all images as an array."""
        return np.asarray(self[:], dtype)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the images, (C, H, W)."""
        return (image for chunk in self.split(1000) for image in chunk)

    def subset(self, positions: Tensor) -> "LazyImages":
        """Return the images at positions, (n,), int64, or those that are marked, (N,), bool, without reading them."""
        return LazyImages(self.parts, self.positions[positions])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield the images in chunks of a size; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def will_need(self, positions: Tensor) -> None:
        """Ask the system to read the images at positions, (n,), ahead."""
        for part, _, rows in self._by_part(self.positions[positions]):
            if isinstance(part.images, RowFile):
                part.images.will_need(rows.numpy())

    @staticmethod
    def joined(sets: Sequence["LazyImages"]) -> "LazyImages":
        """Return sets of images of one shape as one, without reading them."""
        parts = [part for each in sets for part in each.parts]
        starts = torch.tensor([0, *(int(each._starts[-1]) for each in sets)]).cumsum(0)
        return LazyImages(parts, torch.cat([each.positions + start for each, start in zip(sets, starts, strict=False)]))

    def _by_part(self, wanted: Tensor) -> Iterator[tuple[Part, Tensor, Tensor]]:
        """Yield each part that has some of the images, which of the images it has, and their places in the part."""
        number = torch.searchsorted(self._starts, wanted, right=True) - 1
        for k in number.unique().tolist():
            chosen = (number == k).nonzero()[:, 0]
            yield self.parts[k], chosen, wanted[chosen] - self._starts[k]


def as_lazy(images: Tensor | LazyImages) -> LazyImages:
    """Return a tensor of images, (N, C, H, W), as `LazyImages`."""
    return LazyImages([Part(images)]) if isinstance(images, Tensor) else images
