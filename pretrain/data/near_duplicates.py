"""Images of one set that are in another: the same bytes, or nearly the same picture."""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

CHUNK = 1024  # images at a time, which bounds the memory
ROWS = 32  # hashes at a time that are compared with all others
SMALLEST = 24  # pixels of a side, below which only equal images count
THUMBNAIL = 32  # pixels of a side, to which larger images are reduced before they are compared
DISTANCE = 12  # of 64 bits: greatest distance of the hashes of two images that are worth a closer look
NEAREST = 8  # candidates for each image that get one: a film may have thousands alike
CORRELATION = 0.6  # least correlation of the gradients of near-duplicates
CONTRAST = 1.0  # gray levels: least root mean square of the gradients of an image that can have near-duplicates
DETAIL = 0.9  # least ratio of second to first differences of such an image; of photographs it is 1 and more


@dataclass(frozen=True)
class Match:
    """An image of one set that is in another: their positions, and how alike they are.

    Attributes
    ----------
    image, other : int
        Positions in the one set and in the other.
    exact : bool
        Whether every byte is equal.
    correlation : float
        Of the gradients, from `CORRELATION` to 1, where the two are near-duplicates; 1 where they are equal.
    """

    image: int
    other: int
    exact: bool
    correlation: float


@dataclass(frozen=True)
class Fingerprints:
    """Images with what they are searched by.

    Attributes
    ----------
    images : Tensor, (N, C, H, W), uint8
    keys : list of bytes
        A hash of the bytes of each image.
    hashes : ndarray, (N,), uint64
        A perceptual hash of each; 0 for an image that can only be equal to another: a flat, a blurred or a small one.
    """

    images: Tensor
    keys: list[bytes]
    hashes: np.ndarray


def fingerprints(images: Tensor) -> Fingerprints:
    """Compute the hashes of images, (N, C, H, W), uint8."""
    keys = [
        hashlib.blake2b(image.data, digest_size=16).digest()
        for chunk in images.split(CHUNK)
        for image in chunk.contiguous().numpy()
    ]
    return Fingerprints(images, keys, perceptual_hashes(images))


def perceptual_hashes(images: Tensor) -> np.ndarray:
    """Return which of the 8x8 lowest frequencies are above their median: 64 bits for each image, (N,), uint64.

    The low frequencies of a flat image are noise, and a small or a blurred one has no others: its hash is 0.

    Parameters
    ----------
    images : Tensor, (N, C, H, W), uint8

    References
    ----------
    Zauner (2010), Implementation and benchmarking of perceptual image hash functions, section 3.2.
    """
    if not len(images) or min(images.shape[2:]) < SMALLEST:
        return np.zeros(len(images), dtype=np.uint64)
    return np.concatenate([_above_median(thumbnails(chunk)) for chunk in images.split(CHUNK)])


def _above_median(small: Tensor) -> np.ndarray:
    """Return the hashes, (N,), of thumbnails."""
    # Rounded, so that what is zero by symmetry is so however the transform was computed.
    frequencies = np.rint(dctn(small.numpy(), axes=(1, 2))[:, :8, :8].reshape(-1, 64))
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits & _detailed(small).numpy()[:, None], axis=1).view(np.uint64)[:, 0]


def _detailed(small: Tensor) -> Tensor:
    """Say which thumbnails, (N,), have the contrast and the detail by which a copy can be told from a lookalike."""
    first = gradients(small)  # (N, 2, h - 1, w - 1)
    second = gradients(first.flatten(0, 1)).unflatten(0, (-1, 2))  # (N, 2, 2, h - 2, w - 2)
    contrast = first.square().mean(dim=(1, 2, 3)).sqrt()
    detail = second.square().sum(dim=2).mean(dim=(1, 2, 3)).sqrt()
    return (contrast >= CONTRAST) & (detail >= DETAIL * contrast)


def thumbnails(images: Tensor) -> Tensor:
    """Return gray images of `THUMBNAIL` pixels a side or fewer, (N, h, w), float32, from 0 to 255."""
    gray = images.float().mean(dim=1, keepdim=True)
    height, width = (min(side, THUMBNAIL) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(gray, (height, width))[:, 0].contiguous()


def gradients(gray: Tensor) -> Tensor:
    """Return the differences of gray images (N, H, W) down and to the right, (N, 2, H - 1, W - 1)."""
    corner = gray[:, :-1, :-1]
    return torch.stack([gray[:, 1:, :-1] - corner, gray[:, :-1, 1:] - corner], dim=1)


def find_shared(one: Fingerprints, other: Fingerprints) -> list[Match]:
    """Return a match for each image of one set that is in the other, in the order of the first.

    An image is looked for as it is, byte by byte, and then as a near-duplicate: a copy that was compressed again,
    moved by a pixel, made brighter, or mirrored. Candidates have perceptual hashes, of either view, within `DISTANCE`
    bits; they are confirmed by the correlation of their gradients, since pictures of few details (a ship on the sea,
    an aeroplane in the sky) have low frequencies alike. Images with a side below `SMALLEST` pixels, flat ones
    and those enlarged from few pixels are looked for byte by byte only: two digits of 8x8 pixels by different hands
    can be as alike as two copies.

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
    """Return positions of the pairs of hashes within `DISTANCE` bits, (P, 2); for each of the one, `NEAREST` at most.

    Every pair is looked at, a few rows at a time, which stay in the processor's cache.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    rows, columns = np.flatnonzero(one), np.flatnonzero(other)
    for start in range(0, len(rows) if len(columns) else 0, ROWS):
        chunk = rows[start : start + ROWS]
        distances = count_bits(one[chunk, None] ^ other[columns])
        for k in np.flatnonzero(distances.min(axis=1) <= DISTANCE):
            close = np.flatnonzero(distances[k] <= DISTANCE)
            close = close[distances[k, close].argsort(kind="stable")[:NEAREST]]
            found.append(np.stack([np.full(len(close), chunk[k]), columns[close]], axis=1))
    return torch.from_numpy(np.concatenate(found))


def count_bits(words: np.ndarray) -> np.ndarray:
    """Return how many bits of each word, uint64, are set."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    return _bits_of_16()[words.view(np.uint16)].reshape(*words.shape, 4).sum(axis=-1)  # NumPy 1


@cache
def _bits_of_16() -> np.ndarray:
    """Return how many bits of each number below 2^16 are set."""
    numbers = np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return np.unpackbits(numbers, axis=1).sum(axis=1, dtype=np.uint8)


def _confirmed(one: Fingerprints, other: Fingerprints, candidates: Tensor, mirrored: bool) -> list[Match]:
    """Return those candidates that are near-duplicates; `mirrored`: of the other images as in a mirror."""
    matches = []
    for chunk in candidates.split(CHUNK):
        images, others = one.images[chunk[:, 0]], other.images[chunk[:, 1]]
        correlation = alignment(thumbnails(images), thumbnails(others.flip(3) if mirrored else others))
        for k in (correlation >= CORRELATION).nonzero()[:, 0].tolist():
            image, place = chunk[k].tolist()
            matches.append(Match(image, place, False, min(float(correlation[k]), 1.0)))
    return matches


def alignment(one: Tensor, other: Tensor) -> Tensor:
    """Return how well pairs of gray images agree, (N,): the greatest correlation of gradients over shifts of a pixel.

    Brightness does not matter to it, nor does contrast; edges do. Of a flat image it is 0.

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
