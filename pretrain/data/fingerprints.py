"""Fingerprints of images, by which their copies are found without the images themselves."""

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

from pretrain.network.preprocessing import Images

# Hash of the bytes; perceptual hash; signs of random projections of the gradients.
FINGERPRINT = np.dtype([("key", "V16"), ("hash", "<u8"), ("sketch", "u1", 64)])
SKETCH_BITS = 512

# Chunks bound the memory, and small ones stay in the processor's cache.
IMAGES_PER_CHUNK = 256

# Smaller images are compared byte by byte only.
SMALLEST_SIDE = 24  # pixels
THUMBNAIL_SIDE = 32  # pixels

# An image with less contrast or detail has no near-duplicates.
MIN_CONTRAST = 1.0  # root mean square of the gradients, in gray levels
MIN_DETAIL = 0.9  # ratio of second to first differences; photographs have 1 or more


def fingerprints(images: Images) -> np.ndarray:
    """Return the fingerprints of images, (N,), of the type `FINGERPRINT`.

    A fingerprint has three fields:

    - ``key``, a hash of the bytes;
    - ``hash``, a perceptual hash: which of 8x8 low frequencies exceed their median; 0 for flat, blurred and small
      images, which have too little detail to be told apart in this way;
    - ``sketch``, the signs of random projections of the gradients; 0 where the hash is. The angle between the
      gradients of two images is estimated by the share of signs that differ.

    Parameters
    ----------
    images : Tensor or LazyImages, (N, C, H, W), uint8
        They are read in chunks.

    References
    ----------
    Zauner (2010), Implementation and benchmarking of perceptual image hash functions, section 3.2.
    Charikar (2002), Similarity estimation techniques from rounding algorithms, STOC.
    """
    prints = np.zeros(len(images), dtype=FINGERPRINT)
    start = 0
    for chunk in images.split(IMAGES_PER_CHUNK):
        some = prints[start : start + len(chunk)]
        some["key"] = np.frombuffer(b"".join(_keys(chunk)), dtype="V16")
        if comparable(images):
            small = thumbnails(chunk)
            some["hash"] = perceptual_hashes(small)
            some["sketch"] = sketches(inner(small)) * (some["hash"] != 0)[:, None]
        start += len(chunk)
    return prints


def comparable(images: Images) -> bool:
    """Return whether images are large enough to have near-duplicates."""
    return min(images.shape[2:]) >= SMALLEST_SIDE


def _keys(images: Tensor) -> Iterator[bytes]:
    """Yield a hash of the bytes of each image, whose channels come first."""
    return (hashlib.blake2b(image.data, digest_size=16).digest() for image in images.contiguous().numpy())


def thumbnails(images: Tensor) -> Tensor:
    """Return gray images of `THUMBNAIL_SIDE` pixels a side or fewer, (N, h, w), float32, from 0 to 255."""
    gray = images.float().sum(dim=1) / images.shape[1]
    if max(images.shape[2:]) <= THUMBNAIL_SIDE:
        return gray
    height, width = (min(side, THUMBNAIL_SIDE) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(gray[:, None], (height, width))[:, 0]


def perceptual_hashes(small: Tensor) -> np.ndarray:
    """Return the perceptual hashes of thumbnails, (N,), uint64."""
    # Rounding gives the same bits for frequencies that are zero by symmetry, however the transform is computed.
    frequencies = np.rint(dctn(small.numpy(), axes=(1, 2))[:, :8, :8].reshape(-1, 64))
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits & _detailed(small).numpy()[:, None], axis=1).view("<u8")[:, 0]


def _detailed(small: Tensor) -> Tensor:
    """Return which thumbnails, (N,), have enough contrast and detail to tell a copy from a similar image."""
    first = gradients(small)  # (N, 2, h - 1, w - 1)
    second = gradients(first.flatten(0, 1)).unflatten(0, (-1, 2))  # (N, 2, 2, h - 2, w - 2)
    contrast = first.square().mean(dim=(1, 2, 3)).sqrt()
    detail = second.square().sum(dim=2).mean(dim=(1, 2, 3)).sqrt()
    return (contrast >= MIN_CONTRAST) & (detail >= MIN_DETAIL * contrast)


def gradients(gray: Tensor) -> Tensor:
    """Return the differences of gray images (N, H, W) down and to the right, (N, 2, H - 1, W - 1)."""
    corner = gray[:, :-1, :-1]
    return torch.stack([gray[:, 1:, :-1] - corner, gray[:, :-1, 1:] - corner], dim=1)


def inner(small: Tensor) -> Tensor:
    """Return thumbnails without the outermost pixels, so that other windows of their size are shifted by a pixel."""
    return small[:, 1:-1, 1:-1]


def sketches(windows: Tensor) -> np.ndarray:
    """Return the signs of the projections of the gradients of windows, (N, h, w), of thumbnails: (N, 64), uint8."""
    # Thirds of gray levels are integers, and so are the projections: they are exact on every machine.
    thirds = (3 * windows).round().flatten(1)
    return np.packbits((thirds @ _projections(*windows.shape[1:]) > 0).numpy(), axis=1)


@cache
def _projections(height: int, width: int) -> Tensor:
    """Return projections of gray images onto random directions of their gradients, (height * width, SKETCH_BITS).

    As many entries of a direction are 1 as are -1: this leaves out the mean of the gradients. Stored sketches must not
    depend on the version of a library's generator, so the directions are drawn by a hash function.
    """
    shape = (SKETCH_BITS, 2, height - 1, width - 1)
    drawn = hashlib.shake_256(b"sketch").digest(int(np.prod(shape)) * 8)
    order = np.frombuffer(drawn, dtype="<u8").reshape(SKETCH_BITS, -1).argsort(axis=1, kind="stable")
    down, right = (2.0 * torch.from_numpy(order % 2).reshape(shape) - 1).unbind(1)
    projections = torch.zeros(SKETCH_BITS, height, width)
    projections[:, 1:, :-1] += down
    projections[:, :-1, 1:] += right
    projections[:, :-1, :-1] -= down + right
    return projections.flatten(1).T.contiguous()


def rows_of_bytes(prints: np.ndarray) -> np.ndarray:
    """Return fingerprints as bytes, (N, 88), uint8."""
    return np.ascontiguousarray(prints).view(np.uint8).reshape(len(prints), FINGERPRINT.itemsize)


def prints_of_bytes(rows: np.ndarray) -> np.ndarray:
    """Return the fingerprints, (N,), that `rows_of_bytes` made bytes of."""
    return np.ascontiguousarray(rows).view(FINGERPRINT)[:, 0]
