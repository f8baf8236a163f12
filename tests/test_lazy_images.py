"""Images that are read as they are asked for are those of the tensor that holds them all."""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.lazy_images import LazyImages, Part, as_lazy
from pretrain.data.row_files import RowFile, runs_of

SHAPE = (3, 2, 3)  # height, width, channels


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@pytest.fixture
def pair(tmp_path):
    """The same images twice: in two files and a tensor, joined and reordered, and as one tensor."""
    arrays = [rows(count, seed) for seed, count in enumerate((5, 4, 7))]
    parts = []
    for k, array in enumerate(arrays[:2]):
        (tmp_path / str(k)).write_bytes(array.tobytes())
        parts.append(LazyImages([Part(RowFile.at(tmp_path / str(k), SHAPE))]))
    parts.append(as_lazy(torch.from_numpy(arrays[2]).permute(0, 3, 1, 2)))
    whole = torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2)
    return LazyImages.joined(parts), whole


def test_reads_what_a_tensor_holds(pair):
    lazy, whole = pair
    order = torch.randperm(16)
    assert lazy.shape == whole.shape
    assert lazy.nbytes == whole.nbytes
    for key in (slice(None), slice(3, 11), slice(-2, None), order, torch.tensor([2, 2, 15]), order < 3, order[:0]):
        assert torch.equal(lazy[key], whole[key])
        assert lazy[key].is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, lazy.split(5), whole.split(5)))


def test_subsets_are_those_of_the_tensor(pair):
    lazy, whole = pair
    order = torch.randperm(16)
    some, marked = lazy.subset(order[:9]), lazy.subset(order > 4)
    assert torch.equal(some[:], whole[order[:9]])
    assert torch.equal(some.subset(torch.tensor([8, 0, 8]))[:], whole[order[[8, 0, 8]]])
    assert torch.equal(marked[:], whole[order > 4])
    assert torch.equal(LazyImages.joined([some, marked])[:], torch.cat([some[:], marked[:]]))
    lazy.will_need(order)
    assert torch.equal(lazy[order], whole[order])


def test_a_cut_file_is_an_error_and_no_bus_error(tmp_path):
    file = tmp_path / "rows"
    file.write_bytes(rows(6).tobytes())
    images = LazyImages([Part(RowFile.at(file, SHAPE))])
    os.truncate(file, 4 * 18)
    assert torch.equal(images[:4], torch.from_numpy(rows(6)[:4]).permute(0, 3, 1, 2))
    with pytest.raises(OSError, match="cut while it was read"):
        images[3:5]


def test_a_temporary_file_leaves_nothing(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    kept = RowFile.temporary(tmp_path, (6,), np.float32, 4)
    kept.write(2, values[2:])
    kept.write(0, values[:2])
    assert np.array_equal(kept.read(np.array([3, 0, 1])), values[[3, 0, 1]])
    assert not [*tmp_path.iterdir()]


@given(st.lists(st.integers(0, 9)))
def test_runs_cover_positions_in_order(positions):
    runs = runs_of(np.array(positions, dtype=np.int64))
    parts = [positions[start:end] for start, end in runs]
    assert [each for part in parts for each in part] == positions
    assert all(part == [*range(part[0], part[0] + len(part))] for part in parts)
    # Runs are as long as they can be.
    assert all(two[0] != one[-1] + 1 for one, two in pairwise(parts))
