import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from test_data_leakage import COPIES, scenes

from pretrain.data import hash_search, near_duplicates
from pretrain.data.fingerprints import (
    FINGERPRINT,
    IMAGES_PER_CHUNK,
    SKETCH_BITS,
    SMALLEST_SIDE,
    fingerprints,
    gradients,
    inner,
    prints_of_bytes,
    rows_of_bytes,
    sketches,
    thumbnails,
)
from pretrain.data.hash_search import CANDIDATES_PER_IMAGE, MAX_HASH_DISTANCE, close_hashes
from pretrain.data.near_duplicates import MIN_ESTIMATED_CORRELATION, alignment, estimated_correlations, find_shared


class Counted:
    """Images of which those that are read by their positions are counted."""

    def __init__(self, images):
        self.images, self.shape, self.read = images, images.shape, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        found = self.images[key]
        self.read += len(found)
        return found

    def split(self, size):
        return iter(self.images.split(size))


def noise(count, size=32):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


# --- Fingerprints


@pytest.mark.parametrize("size", [8, 27, 32, 40])
def test_the_fingerprint_of_an_image_does_not_depend_on_the_others_nor_on_the_order_in_memory(size):
    images = torch.cat([scenes(IMAGES_PER_CHUNK + 3, size=size), noise(2, size)])
    prints = fingerprints(images)
    assert prints.dtype == FINGERPRINT
    for other in (Counted(images), images.contiguous(memory_format=torch.channels_last)):
        assert (fingerprints(other) == prints).all()
    for k in (0, 7, len(images) - 4, len(images) - 1):
        assert fingerprints(images[k : k + 1])[0] == prints[k]
    assert len(set(prints["key"].tolist())) == len(images)
    assert prints["hash"].all() == (size >= SMALLEST_SIDE)


def test_no_images_have_no_fingerprints():
    assert fingerprints(scenes(1)[:0]).shape == (0,)


def test_what_cannot_be_told_apart_has_a_key_alone():
    flat = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    for images in (flat, scenes(3, size=SMALLEST_SIDE - 1)):
        prints = fingerprints(images)
        assert not prints["hash"].any()
        assert not prints["sketch"].any()


def test_fingerprints_are_the_same_after_they_are_stored():
    prints = fingerprints(scenes(5))
    assert rows_of_bytes(prints).shape == (5, FINGERPRINT.itemsize)
    assert (prints_of_bytes(rows_of_bytes(prints).copy()) == prints).all()


# --- Sketches


def test_sketches_are_the_signs_of_projections_of_normalized_gradients():
    """A ramp, as a brighter background, adds the same to all gradients; contrast multiplies them: no sign changes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (40, 30, 30), generator=generator).float()
    ramp = 3 * torch.arange(30.0)[:, None] + 3 * torch.arange(30.0)
    assert (sketches(images) == sketches(images + ramp)).all()
    assert (sketches(images) == sketches(4 * images + 7)).all()
    # The negative of an image is on the other side of each plane, but for the few that it lies in.
    same = np.unpackbits(sketches(images) ^ ~sketches(-images))
    assert same.mean() < 0.002


def test_signs_differ_as_often_as_the_angle_says():
    """Two vectors at an angle a are on different sides of a random plane with probability a / pi."""
    generator = torch.Generator().manual_seed(0)
    images, others = torch.rand(2, 60, 32, 32, generator=generator) * 255
    for share in torch.linspace(0, 1, 6):
        mixed = share * images + (1 - share) * others
        one, other = (gradients(inner(gray)).flatten(1).double() for gray in (images, mixed))
        one, other = (x - x.mean(dim=1, keepdim=True) for x in (one, other))
        angle = torch.cosine_similarity(one, other).clamp(-1, 1).acos().numpy()
        differ = np.unpackbits(sketches(inner(images)) ^ sketches(inner(mixed)), axis=1).mean(axis=1)
        expected = angle / math.pi
        error = np.sqrt(expected * (1 - expected) / SKETCH_BITS)
        assert abs((differ - expected).mean()) < 4 * error.mean() / math.sqrt(len(images)) + 1e-3
        assert (abs(differ - expected) < 5 * error + 2e-3).all()


def test_the_estimate_is_near_the_correlation_of_pixels_for_copies_moved_by_a_pixel():
    images = scenes(100)
    small, other = thumbnails(images), thumbnails(COPIES["compressed"](images).roll(1, 3))
    moved = np.stack([sketches(other[:, y : y + 30, x : x + 30]) for y in range(3) for x in range(3)], axis=1)
    prints = fingerprints(images)
    estimates = estimated_correlations(prints["sketch"], moved, np.arange(100))
    correlations = alignment(small, other).numpy()
    assert abs(estimates - correlations).max() < 0.2
    assert abs((estimates - correlations).mean()) < 0.02
    assert (estimated_correlations(prints["sketch"], moved[::-1], np.arange(99, -1, -1)) == estimates).all()


# --- Search without the pixels of the pool


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_when_the_images_of_the_pool_are_gone(copy):
    images = scenes(200)
    copies = COPIES[copy](images).flip(0)
    prints, others = fingerprints(images), fingerprints(copies)
    alone = find_shared(prints, others, copies)
    assert {m.image for m in alone} >= {m.image for m in find_shared(prints, others, copies, images)}
    assert all(match.image == 199 - match.other and not match.exact for match in alone)
    assert all(MIN_ESTIMATED_CORRELATION <= match.correlation <= 1 for match in alone)


def test_unrelated_images_are_not_shared_by_their_sketches():
    """At most one false alarm in 3,000 images that are compared with 3,000."""
    other = scenes(3_000, seed=2)
    assert len(find_shared(fingerprints(scenes(3_000, seed=1)), fingerprints(other), other)) <= 1
    images = noise(2_000)
    assert find_shared(fingerprints(images[:1_000]), fingerprints(images[1_000:]), images[1_000:]) == []


def test_equal_images_are_found_without_pixels_even_if_small():
    images = scenes(9, size=8)
    matches = find_shared(fingerprints(images[:5]), fingerprints(images[3:]), images[3:])
    assert [(m.image, m.other, m.exact) for m in matches] == [(3, 0, True), (4, 1, True)]


# --- Search in blocks


def test_few_images_are_read_and_blocks_change_nothing(monkeypatch):
    images = scenes(300)
    other = torch.cat([scenes(200, seed=1), COPIES["compressed"](images[40:50]), images[290:].flip(3)])
    prints, others = fingerprints(images), fingerprints(other)
    pool = Counted(images)
    matches = find_shared(prints, others, Counted(other), pool)
    assert [match.image for match in matches] == [*range(40, 50), *range(290, 300)]
    assert pool.read < 40
    monkeypatch.setattr(near_duplicates, "PRINTS_PER_BLOCK", 7)
    monkeypatch.setattr(near_duplicates, "IMAGES_PER_CHUNK", 3)
    monkeypatch.setattr(hash_search, "PAIRS_PER_CHUNK", 500)
    again = find_shared(prints, others, other, images)
    assert [(m.image, m.other, m.exact) for m in again] == [(m.image, m.other, m.exact) for m in matches]
    assert [m.correlation for m in again] == pytest.approx([m.correlation for m in matches])


def test_images_alike_in_low_frequencies_alone_are_not_shared():
    images, details = scenes(100), scenes(100, seed=1)
    frequencies = dctn(details.numpy().astype(float), axes=(2, 3))
    frequencies[:, :, :10, :10] = dctn(images.numpy().astype(float), axes=(2, 3))[:, :, :10, :10]
    other = torch.from_numpy(idctn(frequencies, axes=(2, 3))).clamp(0, 255).to(torch.uint8)
    prints, others = fingerprints(images), fingerprints(other)
    assert len(close_hashes(prints["hash"], others["hash"])) > 50
    for pool in (images, None):
        assert find_shared(prints, others, other, pool) == []


@pytest.mark.parametrize("pairs_per_chunk", [1, 400, 2**19])
def test_the_nearest_hashes_are_kept_and_the_first_of_those_equally_near(monkeypatch, pairs_per_chunk):
    monkeypatch.setattr(hash_search, "PAIRS_PER_CHUNK", pairs_per_chunk)
    rng = np.random.default_rng(0)
    centers = rng.integers(1, 2**63, 3, dtype=np.uint64)

    def near_centers(count):
        flips = [sum(1 << int(bit) for bit in rng.choice(63, rng.integers(0, 9), replace=False)) for _ in range(count)]
        return rng.choice(centers, count) ^ np.array(flips, dtype=np.uint64)

    one, other = near_centers(40), near_centers(150)
    one[3] = other[[5, 20]] = 0
    expected = []
    for i, a in enumerate(one):
        distances = [(bin(int(a) ^ int(b)).count("1"), j) for j, b in enumerate(other) if a and b]
        nearest = sorted(pair for pair in distances if pair[0] <= MAX_HASH_DISTANCE)[:CANDIDATES_PER_IMAGE]
        expected += [[i, j] for _, j in nearest]
    assert len(expected) == 39 * CANDIDATES_PER_IMAGE
    assert close_hashes(one, other).tolist() == expected
