import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

import pretrain
from pretrain import Callback, RunFolder, UserError, evaluate, finetune_network
from pretrain.data.augmentation import mixup
from pretrain.data.splits import label_subset
from pretrain.runs.seeding import generator
from pretrain.training.checkpointing import Checkpointing
from pretrain.training.minibatches import BatchOrder

RECIPE = pretrain.Recipe(steps=12, batch_size=16, crop=1, flip=False, evaluate_every=4)


@pytest.fixture
def network(stack, digits):
    return pretrain.assemble(stack, digits.classes, seed=0, pretrained=False, unlabelled=digits.unlabelled)


def bits(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(("alpha", "l2_sp"), [(0.0, 0.0), (0.5, 0.0), (0.0, 10.0)])
def test_the_plain_case_is_torchs_own_training_on_mixtures_and_held_to_the_start_too(
    alpha, l2_sp, network, digits, fabric
):
    plain = {"crop": 0, "dropout": 0.0, "label_smoothing": 0.0, "warmup": 0.0, "weight_decay": 0.0}
    recipe = replace(RECIPE, schedule="constant", mixup=alpha, l2_sp=l2_sp, **plain)
    theirs = copy.deepcopy(network).eval()
    start = [parameter.detach().clone() for parameter in theirs.layers.parameters()]
    finetune_network(network, digits, labels=50, seed=3, recipe=recipe, fabric=fabric)
    subset = digits.train.subset(label_subset(digits.train.labels, 50, 3))
    order = BatchOrder(50, 16, 3, "finetune")
    optimizer = torch.optim.SGD(theirs.parameters(), lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    for step in range(recipe.steps):
        images, target = subset.images[order(step)] / 255, F.one_hot(subset.labels[order(step)], 10).float()
        if alpha:
            images, partners, share = mixup(images, alpha, generator(3, "finetune", "augment", step, 0))
            target = share * target + (1 - share) * target[partners]
        optimizer.zero_grad()
        F.cross_entropy(theirs(images), target).backward()
        optimizer.step()
        for parameter, began in zip(theirs.layers.parameters(), start, strict=True):
            parameter.data -= recipe.learning_rate * l2_sp * (parameter.data - began)
    torch.testing.assert_close(bits(network), bits(theirs), rtol=1e-4, atol=1e-5)


def test_a_frozen_network_trains_its_head_alone(network, digits, fabric):
    before = copy.deepcopy(network)
    finetune_network(network, digits, labels=50, recipe=replace(RECIPE, freeze=True), fabric=fabric)
    assert torch.equal(bits(network.layers), bits(before.layers))
    assert not torch.equal(bits(network.head), bits(before.head))


class Watch(Callback):
    """Calls a function before each step."""

    def __init__(self, function):
        self.function = function

    def before_step(self, trainer):
        self.function(trainer)


def test_the_head_goes_first_and_then_all_learn(network, digits, fabric):
    seen = []
    watch = Watch(lambda trainer: seen.append([bits(layer).clone() for layer in network.layers]))
    recipe = replace(RECIPE, head_steps=5)
    finetune_network(network, digits, labels=50, recipe=recipe, fabric=fabric, callbacks=[watch])
    seen.append([bits(layer) for layer in network.layers])
    learning = [not all(map(torch.equal, before, after)) for before, after in pairwise(seen)]
    assert learning == [False] * 5 + [True] * 7


def test_early_stopping_waits_for_the_layers_to_learn(network, digits, fabric):
    recipe = replace(RECIPE, learning_rate=0.0, head_steps=8, early_stopping=True, evaluate_every=1, patience=2)
    assert finetune_network(network, digits, labels=50, recipe=recipe, fabric=fabric).steps == 10


def test_where_layers_are_frozen_the_head_needs_no_phase_of_its_own(network, digits, fabric):
    frozen, other = replace(RECIPE, freeze=True), copy.deepcopy(network)
    finetune_network(network, digits, labels=50, recipe=frozen, fabric=fabric)
    finetune_network(other, digits, labels=50, recipe=replace(frozen, head_steps=100), fabric=fabric)
    assert torch.equal(bits(network), bits(other))


def test_a_layer_with_rate_zero_stays_and_the_rates_are_as_many_as_the_layers(network, digits, fabric):
    before = copy.deepcopy(network)
    recipe = replace(RECIPE, layer_rates=[0.0, 1.0], weight_decay=0.0)
    finetune_network(network, digits, labels=50, recipe=recipe, fabric=fabric)
    assert torch.equal(bits(network.layers[0]), bits(before.layers[0]))
    assert not torch.equal(bits(network.layers[1]), bits(before.layers[1]))
    with pytest.raises(UserError, match="there are 2 layers"):
        finetune_network(network, digits, labels=50, recipe=replace(RECIPE, layer_rates=[1.0]), fabric=fabric)


def test_l2_sp_at_its_strongest_freezes_the_layers_and_decays_the_head_alone(network, digits, fabric):
    still = replace(RECIPE, warmup=0.0, schedule="constant", learning_rate=0.1, weight_decay=0.01)
    frozen, held = copy.deepcopy(network), copy.deepcopy(network)
    finetune_network(frozen, digits, labels=50, recipe=replace(still, freeze=True), fabric=fabric)
    finetune_network(held, digits, labels=50, recipe=replace(still, l2_sp=10.0), fabric=fabric)
    torch.testing.assert_close(bits(held), bits(frozen))
    with pytest.raises(UserError, match="moves layers by 200% of the way back"):
        finetune_network(network, digits, labels=50, recipe=replace(still, l2_sp=20.0), fabric=fabric)


def test_the_same_seed_gives_the_same_bits(network, digits, fabric):
    copies = [copy.deepcopy(network) for _ in range(3)]
    for each, seed in zip(copies, (0, 0, 1), strict=True):
        finetune_network(each, digits, labels=50, seed=seed, recipe=RECIPE, fabric=fabric)
    assert torch.equal(bits(copies[0]), bits(copies[1]))
    assert not torch.equal(bits(copies[0]), bits(copies[2]))


def test_an_interrupted_run_goes_on_to_the_same_bits(network, digits, fabric, tmp_path):
    recipe = replace(RECIPE, head_steps=4, early_stopping=True, l2_sp=5.0)
    whole, first, second = (copy.deepcopy(network) for _ in range(3))
    expected = finetune_network(whole, digits, labels=50, recipe=recipe, fabric=fabric)
    folder = RunFolder.open(tmp_path / "run", {})

    def interrupt(trainer):
        if trainer.step == 9:
            raise KeyboardInterrupt

    options = {"labels": 50, "recipe": recipe, "fabric": fabric, "folder": folder}
    callbacks = [Checkpointing(folder, every=0.0), Watch(interrupt)]
    with pytest.raises(KeyboardInterrupt):
        finetune_network(first, digits, **options, callbacks=callbacks)
    result = finetune_network(second, digits, **options)
    assert torch.equal(bits(whole), bits(second))
    assert result.test.accuracy == expected.test.accuracy
    assert [row["step"] for row in folder.metrics() if "val_accuracy" in row] == [4, 8, 12]


def test_the_test_split_is_opened_once_and_after_the_last_step(network, digits, fabric):
    events = []
    watch = Watch(lambda trainer: events.append("step"))
    watched = replace(digits, open_test=lambda: events.append("test") or digits.open_test())
    finetune_network(network, watched, labels=50, recipe=RECIPE, fabric=fabric, callbacks=[watch])
    assert events == ["step"] * 12 + ["test"]


def test_test_images_change_nothing_in_what_is_learned(network, digits, fabric):
    test = digits.open_test()
    shuffled = pretrain.Labelled(test.images, test.labels.flip(0))
    networks = [copy.deepcopy(network) for _ in range(2)]
    recipe = replace(RECIPE, early_stopping=True)
    for each, split in zip(networks, (test, shuffled), strict=True):
        finetune_network(each, replace(digits, open_test=lambda s=split: s), labels=50, recipe=recipe, fabric=fabric)
    assert torch.equal(bits(networks[0]), bits(networks[1]))


def test_evaluation_agrees_with_scikit_learn(network, digits):
    test = digits.open_test()
    predicted = [int(name) for name in network.predict(test.images)]
    result = evaluate(network, test)
    assert (result.confusion == confusion_matrix(test.labels, predicted)).all()
    assert result.accuracy == pytest.approx(sum(p == t for p, t in zip(predicted, test.labels, strict=True)) / 500)
    recall = sum(result.per_class.values()) / 10
    assert recall == pytest.approx(balanced_accuracy_score(test.labels, predicted))


def test_it_learns_digits(stack, digits, fabric):
    network = pretrain.assemble(stack, digits.classes, seed=0, pretrained=False, unlabelled=digits.unlabelled)
    recipe = pretrain.Recipe(steps=250, batch_size=32, dropout=0.0, crop=0, flip=False)
    assert finetune_network(network, digits, recipe=recipe, fabric=fabric).test.accuracy > 0.95


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("options", [{}, {"early_stopping": True, "evaluate_every": 1}, {"optimizer": "adamw"}])
def test_a_run_that_diverges_is_no_success_however_short(network, digits, fabric, steps, options):
    recipe = replace(RECIPE, steps=steps, learning_rate=1e30, **options)
    with pytest.raises(UserError, match=r"^finetune.*ower learning_rate=1e\+30"):
        finetune_network(network, digits, labels=50, recipe=recipe, fabric=fabric)


def test_probabilities_that_are_no_numbers_are_refused(network, digits):
    network.head.fc.bias.data[3] = torch.inf
    with pytest.raises(UserError, match="the network's output is not a finite number"):
        network.predict_proba(digits.validation.images)
