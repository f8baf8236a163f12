"""Find the images of one set that are in another, exactly or as near-duplicates."""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

# Chunks bound the memory, and keep the hashes in the processor's cache.
IMAGES_PER_CHUNK = 1024
HASHES_PER_CHUNK = 32

# Smaller images are compared byte by byte only.
SMALLEST_SIDE = 24  # pixels
THUMBNAIL_SIDE = 32  # pixels

# Frames of a film may have thousands of candidates each, of which the nearest are confirmed.
MAX_HASH_DISTANCE = 12  # bits of 64
CANDIDATES_PER_IMAGE = 8
MIN_GRADIENT_CORRELATION = 0.6

# An image with less contrast or detail has no near-duplicates.
MIN_CONTRAST = 1.0  # root mean square of the gradients, in gray levels
MIN_DETAIL = 0.9  # ratio of second to first differences; photographs have 1 or more


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
        Correlation of the gradients, from `MIN_GRADIENT_CORRELATION` to 1; 1 for equal images.
    """

    image: int
    other: int
    exact: bool
    correlation: float


@dataclass(frozen=True)
class Fingerprints:
    """Images and the hashes that they are searched by.

    Attributes
    ----------
    images : Tensor, (N, C, H, W), uint8
    keys : list of bytes
        A hash of the bytes of each image.
    hashes : ndarray, (N,), uint64
        Perceptual hash of each image; 0 for a flat, blurred or small image, which is compared byte by byte only.
    """

    images: Tensor
    keys: list[bytes]
    hashes: np.ndarray


def fingerprints(images: Tensor) -> Fingerprints:
    """Compute the hashes of images, (N, C, H, W), uint8."""
    keys = [
        hashlib.blake2b(image.data, digest_size=16).digest()
        for chunk in images.split(IMAGES_PER_CHUNK)
        for image in chunk.contiguous().numpy()
    ]
    return Fingerprints(images, keys, perceptual_hashes(images))


def perceptual_hashes(images: Tensor) -> np.ndarray:
    """Return the perceptual hash of each image, (N,), uint64: which of 8x8 low frequencies exceed their median.

    Flat, blurred and small images have too little detail to be told apart in this way: their hash is 0.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), uint8

    References
    ----------
    Zauner (2010), Implementation and benchmarking of perceptual image hash functions, section 3.2.
    """
    if not len(images) or min(images.shape[2:]) < SMALLEST_SIDE:
        return np.zeros(len(images), dtype=np.uint64)
    return np.concatenate([_above_median(thumbnails(chunk)) for chunk in images.split(IMAGES_PER_CHUNK)])


def _above_median(small: Tensor) -> np.ndarray:
    """Return the hashes, (N,), of thumbnails."""
    # Rounding gives the same bits for frequencies that are zero by symmetry, however the transform is computed.
    frequencies = np.rint(dctn(small.numpy(), axes=(1, 2))[:, :8, :8].reshape(-1, 64))
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits & _detailed(small).numpy()[:, None], axis=1).view(np.uint64)[:, 0]


def _detailed(small: Tensor) -> Tensor:
    """Return which thumbnails, (N,), have enough contrast and detail to tell a copy from a similar image."""
    first = gradients(small)  # (N, 2, h - 1, w - 1)
    second = gradients(first.flatten(0, 1)).unflatten(0, (-1, 2))  # (N, 2, 2, h - 2, w - 2)
    contrast = first.square().mean(dim=(1, 2, 3)).sqrt()
    detail = second.square().sum(dim=2).mean(dim=(1, 2, 3)).sqrt()
    return (contrast >= MIN_CONTRAST) & (detail >= MIN_DETAIL * contrast)


def thumbnails(images: Tensor) -> Tensor:
    """Return gray images of `THUMBNAIL_SIDE` pixels a side or fewer, (N, h, w), float32, from 0 to 255."""
    gray = images.float().mean(dim=1, keepdim=True)
    height, width = (min(side, THUMBNAIL_SIDE) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(gray, (height, width))[:, 0].contiguous()


def gradients(gray: Tensor) -> Tensor:
    """Return the differences of gray images (N, H, W) down and to the right, (N, 2, H - 1, W - 1)."""
    corner = gray[:, :-1, :-1]
    return torch.stack([gray[:, 1:, :-1] - corner, gray[:, :-1, 1:] - corner], dim=1)


def find_shared(one: Fingerprints, other: Fingerprints) -> list[Match]:
    """Return a match for each image of one set that is in the other, in the order of the first.

    A match is equal byte by byte or a near-duplicate: a copy that was compressed again, moved by a pixel, made
    brighter, or mirrored. The hashes of candidates, mirrored or not, differ by at most `MAX_HASH_DISTANCE` bits.
    Candidates are confirmed by the correlation of their gradients, since images of few details (a ship on the sea, an
    airplane in the sky) have similar low frequencies. Images with a side below `SMALLEST_SIDE` pixels, flat images and
    blurred ones are compared byte by byte only: two digits of 8x8 pixels by different writers can be as similar as two
    copies.

    References
    ----------
    Barz and Denzler (2020), Do we train on test data? Purging CIFAR of near-duplicates, Journal of Imaging 6(6).
    """
    places = {key: k for k, key in reversed([*enumerate(other.keys)])}
    exact = {k: Match(k, places[key], True, 1.0) for k, key in enumerate(one.keys) if key in places}
    near: dict[int, Match] = {}
    for mirrored in (False, True):
        hashes = other.hashes
        if mirrored and hashes.any():
            hashes = perceptual_hashes(other.images.flip(3))
        for match in _confirmed(one, other, close_hashes(one.hashes, hashes), mirrored):
            if match.image not in near or match.correlation > near[match.image].correlation:
                near[match.image] = match
    return [match for _, match in sorted({**near, **exact}.items())]


def close_hashes(one: np.ndarray, other: np.ndarray) -> Tensor:
    """Return the positions of the pairs of hashes within `MAX_HASH_DISTANCE` bits, (P, 2).

    Each hash of the first set has at most `CANDIDATES_PER_IMAGE` pairs, the nearest ones.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    rows, columns = np.flatnonzero(one), np.flatnonzero(other)
    for start in range(0, len(rows) if len(columns) else 0, HASHES_PER_CHUNK):
        chunk = rows[start : start + HASHES_PER_CHUNK]
        distances = count_bits(one[chunk, None] ^ other[columns])
        for k in np.flatnonzero(distances.min(axis=1) <= MAX_HASH_DISTANCE):
            close = np.flatnonzero(distances[k] <= MAX_HASH_DISTANCE)
            close = close[distances[k, close].argsort(kind="stable")[:CANDIDATES_PER_IMAGE]]
            found.append(np.stack([np.full(len(close), chunk[k]), columns[close]], axis=1))
    return torch.from_numpy(np.concatenate(found))


def count_bits(words: np.ndarray) -> np.ndarray:
    """Return the number of bits set in each word, uint64."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    # NumPy 1 cannot count bits.
    return _bits_of_16()[words.view(np.uint16)].reshape(*words.shape, 4).sum(axis=-1)


@cache
def _bits_of_16() -> np.ndarray:
    """Return the number of bits set in each number below 2^16."""
    numbers = np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return np.unpackbits(numbers, axis=1).sum(axis=1, dtype=np.uint8)


def _confirmed(one: Fingerprints, other: Fingerprints, candidates: Tensor, mirrored: bool) -> list[Match]:
    """Return the candidates that are near-duplicates, of mirrored images of the other set if `mirrored`."""
    matches = []
    for chunk in candidates.split(IMAGES_PER_CHUNK):
        images, others = one.images[chunk[:, 0]], other.images[chunk[:, 1]]
        correlation = alignment(thumbnails(images), thumbnails(others.flip(3) if mirrored else others))
        for k in (correlation >= MIN_GRADIENT_CORRELATION).nonzero()[:, 0].tolist():
            image, place = chunk[k].tolist()
            matches.append(Match(image, place, False, min(float(correlation[k]), 1.0)))
    return matches


def alignment(one: Tensor, other: Tensor) -> Tensor:
    """Return the greatest correlation of the gradients of pairs of gray images over shifts by a pixel, (N,).

    It depends on edges, and neither on brightness nor on contrast. It is 0 for a flat image.

    Parameters
    ----------
    one, other : Tensor, (N, H, W)
    """
    one, other = gradients(one.double()), gradients(other.double())
    height, width = (size - 2 for size in one.shape[2:])
    middle = _normalized(one[:, :, 1:-1, 1:-1])
    shifted = [other[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return torch.stack([(middle * _normalized(view)).sum(dim=1) for view in shifted]).amax(dim=0)


def _normalized(images: Tensor) -> Tensor:
    """Return images as vectors, (N, D), of mean 0 and length 1."""
    flat = images.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-9)
