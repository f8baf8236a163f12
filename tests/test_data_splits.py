import pytest
import torch

from pretrain import UserError
from pretrain.data.splits import label_subset, split_validation, stratified_order
from pretrain.runs.seeding import generator


def shuffled_labels(*counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=generator(0, "labels of a test"))]


def assert_ascending(positions):
    assert (positions.diff() > 0).all()


def test_budgets_of_one_seed_are_nested_and_hold_just_what_was_asked_for():
    labels = shuffled_labels(50, 30, 20)
    smaller = set()
    for budget in range(3, 101):
        positions = label_subset(labels, budget, seed=1)
        assert_ascending(positions)
        assert len(positions) == budget
        assert smaller < set(positions.tolist())
        smaller = set(positions.tolist())


@pytest.mark.parametrize("each", [1, 2, 7, 20])
def test_balanced_classes_get_equal_budgets(each):
    labels = shuffled_labels(*[20] * 10)
    assert labels[label_subset(labels, 10 * each, seed=2)].bincount().tolist() == [each] * 10


@pytest.mark.parametrize("counts", [(500, 30, 1), (1, 1, 1, 997), (20,) * 10])
@pytest.mark.parametrize("seed", range(5))
def test_a_budget_of_one_a_class_has_each_class_once(counts, seed):
    labels = shuffled_labels(*counts)
    assert labels[label_subset(labels, len(counts), seed)].bincount().tolist() == [1] * len(counts)


@pytest.mark.parametrize("counts", [(70, 30), (100, 60, 40), (150, 30, 20)])
def test_unbalanced_classes_get_their_share_of_every_budget_to_within_one(counts):
    # Exact for up to three classes. Budgets start where the smallest share reaches 2, past the one each gets anyway.
    labels = shuffled_labels(*counts)
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    for budget in range(int(2 / shares.min()), sum(counts) + 1):
        got = labels[label_subset(labels, budget, seed=3)].bincount()
        assert (got - budget * shares).abs().max() <= 1


def test_the_seed_alone_decides_which_labels_are_seen():
    labels = shuffled_labels(50, 50)
    first, again, other = (label_subset(labels, 10, seed) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_image_is_drawn_by_some_seed():
    # A fair draw of one in ten misses one of the 20 in all 300 seeds with probability below 20 * 0.9^300 < 1e-12.
    labels = shuffled_labels(10, 10)
    assert torch.cat([label_subset(labels, 2, seed) for seed in range(300)]).unique().tolist() == list(range(20))


def test_no_budget_means_every_label():
    assert label_subset(shuffled_labels(3, 2), None, seed=6).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("budget", [-1, 0, 2, 11])
def test_a_budget_below_one_a_class_or_beyond_the_labels_is_refused(budget):
    with pytest.raises(UserError, match=rf"labels={budget}: give a number from 3 \(one per class\) to 10"):
        label_subset(shuffled_labels(5, 3, 2), budget, seed=7)


def test_a_stratified_order_holds_every_position_once():
    assert stratified_order(shuffled_labels(9, 4, 1), 8, "order").sort().values.tolist() == list(range(14))


@pytest.mark.parametrize("size", [0, 1, 20, 90])
def test_the_validation_split_is_disjoint_and_complete(size):
    training, validation = split_validation(shuffled_labels(50, 30, 20), size)
    assert len(validation) == size
    assert_ascending(training)
    assert_ascending(validation)
    assert torch.cat([training, validation]).sort().values.tolist() == list(range(100))


def test_the_validation_split_is_stratified():
    labels = shuffled_labels(50, 30, 20)
    training, validation = split_validation(labels, 20)
    assert labels[validation].bincount().tolist() == [10, 6, 4]
    assert labels[training].bincount().tolist() == [40, 24, 16]


def test_the_validation_split_is_the_same_whatever_the_state_of_torch():
    labels = shuffled_labels(50, 30, 20)
    splits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        splits.append(split_validation(labels, 20)[1].tolist())
    assert splits[0] == splits[1]


@pytest.mark.parametrize("size", [-1, -0.5, 1.5, float("nan"), 10, 11])
def test_a_validation_split_that_leaves_nothing_to_train_on_is_refused(size):
    with pytest.raises(UserError, match=rf"data\.validation={size}: give a share below 1, or a whole number below 10 "):
        split_validation(shuffled_labels(5, 5), size)
