"""Invariants of splits, of the arithmetic of volumes, and of saved states, on examples that hypothesis draws."""

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d, max_pool2d

from pretrain import UserError
from pretrain.data.splits import label_subset, split_validation, stratified_order
from pretrain.network.shapes import output_size
from pretrain.runs.seeding import derive_seed
from pretrain.runs.tensor_files import load_state, save_state

labels = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(torch.tensor)
seeds = st.integers(0, 2**31)


@given(labels, seeds)
def test_each_prefix_of_a_stratified_order_has_its_share_of_each_class(labels, seed):
    order = stratified_order(labels, seed, "x")
    assert order.sort().values.tolist() == list(range(len(labels)))
    classes, totals = labels.unique(return_counts=True)
    assert len(labels[order[: len(classes)]].unique()) == len(classes)
    for size in range(1, len(labels) + 1):
        found = (labels[order[:size]][:, None] == classes).sum(dim=0)
        # Each class comes once first, so that another may wait for as many images as there are classes.
        assert ((found - totals * size / len(labels)).abs() <= len(classes)).all()


@given(labels, st.floats(0, 0.99))
def test_training_and_validation_images_share_nothing_and_leave_nothing_out(labels, share):
    try:
        training, validation = split_validation(labels, share)
    except UserError as error:
        assert "validation" in str(error)  # noqa: PT017
        return
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(len(labels)))
    assert len(validation) == round(share * len(labels))
    assert {*labels[training].tolist()} == {*labels.tolist()}


@given(labels, seeds)
def test_label_budgets_of_a_seed_are_nested_and_have_every_class(labels, seed):
    classes = len(labels.unique())
    subsets = [{*label_subset(labels, budget, seed).tolist()} for budget in range(classes, len(labels) + 1)]
    for less, more in pairwise(subsets):
        assert less < more
    assert len(labels[sorted(subsets[0])].unique()) == classes


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 4), st.integers(0, 3))
def test_the_width_of_a_volume_is_that_of_torchs_convolution(width, size, stride, padding):
    try:
        out = output_size(width, size, stride, padding)
    except UserError:
        whole = (width - size + 2 * padding) / stride
        assert whole < 0 or whole != int(whole)
        return
    image = torch.zeros(1, 1, width, width)
    assert conv2d(image, torch.zeros(1, 1, size, size), stride=stride, padding=padding).shape[-1] == out
    if padding <= size / 2:
        assert max_pool2d(image, size, stride, padding).shape[-1] == out


@given(seeds, st.lists(st.text(max_size=5) | st.integers(0, 9), min_size=1, max_size=3))
def test_a_draw_is_named_by_its_seed_and_its_name(seed, names):
    assert derive_seed(seed, *names) == derive_seed(seed, *names)
    assert 0 <= derive_seed(seed, *names) < 2**63
    assert derive_seed(seed, *names) != derive_seed(seed, *names, "more")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
shapes = st.lists(st.integers(0, 3), max_size=4)
kinds = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])


@given(plain, shapes, kinds, seeds)
def test_any_state_comes_back_as_it_was(tmp_path_factory, values, shape, kind, seed):
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(9).to(kind)
    file = tmp_path_factory.getbasetemp() / "state"
    save_state(file, {"values": values, "tensor": tensor, "list": [tensor, math.pi]})
    loaded = load_state(file)
    assert loaded["values"] == values
    assert (loaded["tensor"].dtype, loaded["tensor"].shape) == (kind, tensor.shape)
    assert torch.equal(loaded["tensor"], tensor)
    assert torch.equal(loaded["list"][0], tensor)
    assert loaded["list"][1] == math.pi
