from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pretrain
from pretrain import UserError, probe_layers
from pretrain.data.splits import label_subset
from pretrain.evaluation.layer_features import pooled_features
from pretrain.evaluation.linear_probe import INVERSE_STRENGTHS
from pretrain.runs.seeding import seeded


@pytest.fixture
def network(stack, digits):
    return pretrain.assemble(stack, digits.classes, seed=0, pretrained=False, unlabelled=digits.unlabelled)


def test_a_probe_is_scikit_learns_own_search_for_c(network, digits):
    train = digits.train.subset(label_subset(digits.train.labels, 100, 3))
    val, test = digits.validation, digits.open_test()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    split = PredefinedSplit([-1] * len(train) + [0] * len(val))
    search = GridSearchCV(model, {"logisticregression__C": INVERSE_STRENGTHS}, cv=split, refit=False)
    found = probe_layers(network, digits, labels=100, seed=3)
    assert [each.depth for each in found] == [0, 1, 2]
    for depth, each in enumerate(found):
        x, held_out, unseen = (pooled_features(network, part.images)[depth] for part in (train, val, test))
        search.fit(torch.cat([x, held_out]), torch.cat([train.labels, val.labels]))
        assert search.best_params_ == {"logisticregression__C": each.C}
        assert each.val_accuracy == search.best_score_
        fitted = model.set_params(**search.best_params_).fit(x, train.labels)
        assert each.test_accuracy == fitted.score(unseen, test.labels)
        assert each.features == x.shape[1]


def test_features_are_means_over_a_grid_of_four_by_four_places_at_most(digits):
    with seeded(0, "stack"):
        stages = [
            pretrain.ConvAutoencoder(pretrain.Layer(1, 5, pool_kernel_size=1)),
            pretrain.ConvAutoencoder(pretrain.Layer(5, 6, pool_kernel_size=4)),
        ]
    network = pretrain.assemble(pretrain.Stack(stages, digits.unlabelled), digits.classes, seed=0)
    images = digits.unlabelled[:7]
    pixels, lower, upper = pooled_features(network, images, batch_size=3)
    x = network.preprocessing(images)
    blocks = [block.detach().reshape(7, -1, 4, 2, 4, 2).mean(dim=(3, 5)) for block in (x, network.layers[0](x))]
    torch.testing.assert_close(pixels, blocks[0].flatten(1))
    torch.testing.assert_close(lower, blocks[1].flatten(1))
    torch.testing.assert_close(upper, network.layers(x).detach().flatten(1))  # 2 x 2 places are left as they are


def test_a_probe_sees_the_labels_that_fine_tuning_sees_and_no_others(network, digits, monkeypatch):
    labels = digits.train.labels
    seen = label_subset(labels, 50, 4)
    expected = probe_layers(network, digits, labels=50, seed=4)
    assert probe_layers(network, digits, labels=50, seed=5) != expected
    monkeypatch.setattr(
        "pretrain.evaluation.linear_probe.label_subset", lambda *_: seen
    )  # a stratified draw looks at all of them
    wrong = torch.zeros_like(labels).index_copy(0, seen, labels[seen])
    hidden = replace(digits, train=pretrain.Labelled(digits.train.images, wrong))
    assert probe_layers(network, hidden, labels=50, seed=4) == expected


def test_the_test_split_is_opened_once_and_changes_no_choice(network, digits):
    test, opened = digits.open_test(), []

    def shuffled():
        opened.append("test")
        return pretrain.Labelled(test.images, test.labels.flip(0))

    honest = probe_layers(network, digits, labels=50)
    misled = probe_layers(network, replace(digits, open_test=shuffled), labels=50)
    assert opened == ["test"]
    assert [(each.C, each.val_accuracy) for each in misled] == [(each.C, each.val_accuracy) for each in honest]
    assert max(each.test_accuracy for each in misled) < 0.3


def test_a_network_is_left_as_it_is(network, digits):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe_layers(network.train(), digits, labels=20)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_without_validation_images_there_is_nothing_to_choose_by(network):
    with pytest.raises(UserError, match=r"there are none: give a greater data\.validation"):
        probe_layers(network, pretrain.load_digits(validation=0))


@pytest.mark.parametrize("spoiled", [torch.nan, torch.inf, 1e30])
def test_layers_that_put_out_no_numbers_are_not_probed(network, digits, spoiled):
    network.layers[1].conv.weight.data.fill_(spoiled)
    network.layers[0].conv.weight.data.abs_().mul_(1e10)
    with pytest.raises(UserError, match="the output of layer 2 has values that are not finite numbers"):
        probe_layers(network, digits, labels=20)
