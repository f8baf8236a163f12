"""Find the images of one set that are in another, exactly or as near-duplicates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pretrain.data.fingerprints import (
    SKETCH_BITS,
    comparable,
    gradients,
    inner,
    perceptual_hashes,
    sketches,
    thumbnails,
)
from pretrain.data.hash_search import close_hashes
from pretrain.network.preprocessing import Images

# Blocks bound the memory. Small chunks of images stay in the processor's cache.
PRINTS_PER_BLOCK = 2**14
IMAGES_PER_CHUNK = 128

MIN_GRADIENT_CORRELATION = 0.6

# Correlations that are estimated by sketches are off by 0.05, the standard deviation. The threshold is so low that they
# miss few copies, and take a few other images for copies.
MIN_ESTIMATED_CORRELATION = 0.55


@dataclass(frozen=True)
class Match:
    """An image of one set and its duplicate in another.

    Attributes
    ----------
    image, other : int
        Positions of the two images in their sets.
    exact : bool
        Whether every byte is equal.
    correlation : float
        Correlation of the gradients, at most 1; 1 for equal images.
    """

    image: int
    other: int
    exact: bool
    correlation: float


def find_shared(
    one: np.ndarray, other: np.ndarray, other_images: Images, one_images: Images | None = None
) -> list[Match]:
    """Return a match for each image of one set that is in the other, in the order of the first.

    A match is equal byte by byte or a near-duplicate: a copy that was compressed again, moved by a pixel, made
    brighter, or mirrored. The hashes of candidates, mirrored or not, differ by at most `MAX_HASH_DISTANCE` bits.
    Candidates are confirmed by the correlation of their gradients, since images of few details (a ship on the sea, an
    airplane in the sky) have similar low frequencies. Flat, blurred and small images have no perceptual hash. They are
    compared byte by byte only: two digits of 8x8 pixels by different writers can be as similar as two copies.

    Parameters
    ----------
    one, other : ndarray of `FINGERPRINT`, (N,), (M,)
        Fingerprints of the two sets.
    other_images : Tensor or LazyImages, (M, C, H, W), uint8
        Images of the other set.
    one_images : Tensor or LazyImages, optional, (N, C, H, W), uint8
        Images of the first set, of which the likely copies are read. Without them, the correlation of the gradients is
        estimated by the sketches.

    References
    ----------
    Barz and Denzler (2020), Do we train on test data? Purging CIFAR of near-duplicates, Journal of Imaging 6(6).
    """
    places = {key: k for k, key in reversed([*enumerate(other["key"].tolist())])}
    exact = {k: Match(k, places[key], True, 1.0) for k, key in enumerate(one["key"].tolist()) if key in places}
    near: dict[int, Match] = {}
    for match in _near(one, other, other_images, one_images):
        if match.image not in near or match.correlation > near[match.image].correlation:
            near[match.image] = match
    return [match for _, match in sorted({**near, **exact}.items())]


def _near(one: np.ndarray, other: np.ndarray, other_images: Images, one_images: Images | None) -> Iterator[Match]:
    """Yield the near-duplicates; there may be several of an image."""
    if not comparable(other_images) or not len(other_images):
        return
    for mirrored in (False, True):
        hashes = _mirrored_hashes(other_images) if mirrored else other["hash"]
        correlations = _confirmation(one, other_images, one_images, mirrored)
        least = MIN_ESTIMATED_CORRELATION if one_images is None else MIN_GRADIENT_CORRELATION
        for start in range(0, len(one), PRINTS_PER_BLOCK):
            pairs = close_hashes(one["hash"][start : start + PRINTS_PER_BLOCK], hashes)
            pairs[:, 0] += start
            for (image, place), correlation in zip(pairs.tolist(), correlations(pairs).tolist(), strict=True):
                if correlation >= least:
                    yield Match(image, place, False, min(correlation, 1.0))


def _confirmation(
    one: np.ndarray, other_images: Images, one_images: Images | None, mirrored: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of pairs, (P, 2), that measures or estimates the correlations of their gradients, (P,)."""
    if one_images is not None:
        return partial(_correlations, one_images, other_images, mirrored)
    moved = _moved_sketches(other_images, mirrored)
    return lambda pairs: estimated_correlations(one["sketch"][pairs[:, 0]], moved, pairs[:, 1])


def _mirrored_hashes(images: Images) -> np.ndarray:
    """Return the perceptual hashes, (M,), of mirrored images."""
    return np.concatenate([perceptual_hashes(thumbnails(chunk.flip(3))) for chunk in images.split(IMAGES_PER_CHUNK)])


def _moved_sketches(images: Images, mirrored: bool) -> np.ndarray:
    """Return the sketches of images, mirrored or not, moved by a pixel or not: (M, 9, 64), uint8."""
    moved = []
    for chunk in images.split(IMAGES_PER_CHUNK):
        small = thumbnails(chunk.flip(3) if mirrored else chunk)
        moved.append(np.stack([sketches(window) for window in _shifted(small)], axis=1))
    return np.concatenate(moved)


def _shifted(images: Tensor) -> list[Tensor]:
    """Return images, (..., H, W), without their outermost pixels, moved by a pixel or not: 9 of (..., H - 2, W - 2)."""
    height, width = (size - 2 for size in images.shape[-2:])
    return [images[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]


def estimated_correlations(one: np.ndarray, moved: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Estimate the greatest correlation of the gradients of pairs of images over shifts by a pixel, (P,).

    Two vectors at an angle a are on different sides of a random plane with probability a / pi.

    Parameters
    ----------
    one : ndarray, (P, 64), uint8
        Sketch of the first image of each pair.
    moved : ndarray, (M, 9, 64), uint8
        Sketches of the other images, moved by a pixel or not.
    positions : ndarray, (P,)
        Which of the M is the second image of each pair.

    References
    ----------
    Goemans and Williamson (1995), Improved approximation algorithms for maximum cut and satisfiability problems using
    semidefinite programming, Journal of the ACM 42(6), section 3.
    """
    differ = np.empty(len(one), dtype=np.int64)
    for start in range(0, len(one), IMAGES_PER_CHUNK):
        chunk = slice(start, start + IMAGES_PER_CHUNK)
        different = one[chunk, None].view(np.uint64) ^ moved[positions[chunk]].view(np.uint64)
        differ[chunk] = np.bitwise_count(different).sum(axis=2, dtype=np.int64).min(axis=1)
    return np.cos(np.pi * differ / SKETCH_BITS)


def _correlations(one: Images, other: Images, mirrored: bool, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of the gradients of pairs of images, (P, 2), the second mirrored or not."""
    correlations = [np.empty(0)]
    for chunk in torch.from_numpy(pairs).split(IMAGES_PER_CHUNK) if len(pairs) else ():
        images, others = one[chunk[:, 0]], other[chunk[:, 1]]
        correlation = alignment(thumbnails(images), thumbnails(others.flip(3) if mirrored else others))
        correlations.append(correlation.numpy())
    return np.concatenate(correlations)


def alignment(one: Tensor, other: Tensor) -> Tensor:
    """Return the greatest correlation of the gradients of pairs of gray images over shifts by a pixel, (N,).

    It depends on edges, and neither on brightness nor on contrast. It is 0 for a flat image.

    Parameters
    ----------
    one, other : Tensor, (N, H, W)
    """
    middle = _normalized(gradients(inner(one.double())))
    moved = _shifted(gradients(other.double()))
    return torch.stack([(middle * _normalized(view)).sum(dim=1) for view in moved]).amax(dim=0)


def _normalized(images: Tensor) -> Tensor:
    """Return images as vectors, (N, D), of mean 0 and length 1."""
    flat = images.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-9)
