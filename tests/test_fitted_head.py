import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pretrain
from pretrain import Labelled, UserError
from pretrain.evaluation.fitted_head import RIDGE_PENALTIES, _ridge, fit_head
from pretrain.evaluation.linear_probe import INVERSE_STRENGTHS

RECIPE = pretrain.Recipe(steps=0, batch_size=16, crop=1, flip=False, freeze=True, head="ridge")


@pytest.fixture
def network(stack, digits):
    return pretrain.assemble(stack, digits.classes, seed=0, pretrained=False, unlabelled=digits.unlabelled).eval()


@torch.no_grad()
def features(network, part):
    return network.layers(network.preprocessing(part.images[:])).flatten(1).numpy()


def best(models, network, train, validation):
    """Return the first model with the best validation accuracy, as scikit-learn fits and scores it."""
    x, held_out = features(network, train), features(network, validation)
    fitted = [make_pipeline(StandardScaler(), model).fit(x, train.labels) for model in models]
    return max(fitted, key=lambda model: model.score(held_out, validation.labels))


def two_classes(part):
    return part.subset(torch.nonzero(part.labels < 2).flatten())


def test_a_logistic_head_gives_the_probabilities_of_scikit_learns_best(network, digits):
    train, validation = digits.train.subset(torch.arange(80)), digits.validation
    expected = best([LogisticRegression(C=C, max_iter=1000) for C in INVERSE_STRENGTHS], network, train, validation)
    fit_head(network, train, validation, "logistic", flip=False)
    probabilities = network.predict_proba(validation.images)
    assert probabilities.numpy() == pytest.approx(expected.predict_proba(features(network, validation)), abs=1e-4)


@pytest.mark.parametrize("count", [40, 80])
def test_a_ridge_head_gives_the_classes_of_scikit_learns_best(network, digits, count):
    train, validation = digits.train.subset(torch.arange(count)), digits.validation
    assert (count < network.head.fc.in_features) == (count == 40)  # fewer images than features, and more
    expected = best([RidgeClassifier(alpha=alpha) for alpha in RIDGE_PENALTIES], network, train, validation)
    fit_head(network, train, validation, "ridge", flip=False)
    predicted = network.predict_proba(validation.images).argmax(dim=1)
    assert (predicted.numpy() == expected.predict(features(network, validation))).mean() > 0.995  # but for ties


def test_ridge_regression_is_scikit_learns_where_one_direction_has_nearly_all_the_variance():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(6000, 1)) + 0.02 * draw.normal(size=(6000, 100))
    x = (x - x.mean(axis=0)).astype(np.float32)
    targets = (x @ draw.normal(size=(100, 3))).astype(np.float32)
    for penalty, weights in _ridge(torch.from_numpy(x), torch.from_numpy(targets).double()):
        expected = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(x.astype(float), targets.astype(float))
        np.testing.assert_allclose(weights, expected.coef_, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("how", ["ridge", "logistic"])
def test_two_classes_are_no_special_case(network, digits, how):
    train, validation = two_classes(digits.train), two_classes(digits.validation)
    network = pretrain.ConvNet(network.preprocessing, network.layers, network.image_shape, ["0", "1"]).eval()
    fit_head(network, train, validation, how, flip=False)
    if how == "logistic":
        expected = best([LogisticRegression(C=C, max_iter=1000) for C in INVERSE_STRENGTHS], network, train, validation)
        theirs = expected.predict_proba(features(network, validation))
        assert network.predict_proba(validation.images).numpy() == pytest.approx(theirs, abs=1e-4)
    assert (network.predict_proba(validation.images).argmax(dim=1) == validation.labels).float().mean() > 0.95


def test_a_ridge_heads_logits_have_the_scale_of_the_least_cross_entropy(network, digits):
    fit_head(network, digits.train.subset(torch.arange(80)), digits.validation, "ridge", flip=False)
    with torch.no_grad():
        logits = network(digits.validation.images[:])
    labels = digits.validation.labels
    prior = 10 / (len(labels) + 10)  # Platt's
    fitted, *others = (F.cross_entropy(f * logits, labels, label_smoothing=prior) for f in (1, 0.98, 1.02))
    assert fitted < min(others)


def test_images_that_are_all_classified_correctly_do_not_scale_the_logits_without_bound(network, digits):
    one = two_classes(digits.train).subset(torch.zeros(15, dtype=torch.long))
    network = pretrain.ConvNet(network.preprocessing, network.layers, network.image_shape, ["0", "1"]).eval()
    fitted = fit_head(network, two_classes(digits.train), one, "ridge", flip=False)
    assert fitted.penalties[fitted.penalty] == 1
    probabilities = network.predict_proba(one.images)[torch.arange(15), one.labels]
    assert probabilities.numpy() == pytest.approx(16 / 17, abs=1e-4)  # (n + 1) / (n + 2), Platt's target


def test_with_flip_the_mirror_images_are_learned_too(network, digits):
    train = digits.train.subset(torch.arange(60))
    both = Labelled(torch.cat([train.images[:], train.images[:].flip(3)]), train.labels.repeat(2))
    fit_head(network, both, digits.validation, "ridge", flip=False)
    expected = network.head.fc.weight.detach().clone()
    fit_head(network, train, digits.validation, "ridge", flip=True)
    torch.testing.assert_close(network.head.fc.weight.detach(), expected)


def test_without_a_step_the_fitted_head_is_the_result(network, digits, fabric):
    result = pretrain.finetune_network(network, digits, labels=100, recipe=RECIPE, fabric=fabric)
    assert result.steps == 0
    assert result.seconds > 0
    assert result.test.accuracy == pretrain.evaluate(network, digits.open_test()).accuracy > 0.5


def test_training_goes_on_from_the_fitted_head(network, digits, fabric):
    recipe = replace(RECIPE, head="logistic", steps=1, warmup=0.0, learning_rate=0.0, weight_decay=0.0)
    other = copy.deepcopy(network)
    pretrain.finetune_network(network, digits, labels=100, recipe=recipe, fabric=fabric)
    pretrain.finetune_network(other, digits, labels=100, recipe=replace(recipe, steps=0), fabric=fabric)
    assert torch.equal(network.head.fc.weight, other.head.fc.weight)


def test_training_that_only_makes_it_worse_goes_back_to_the_fitted_head(network, digits, fabric):
    options = {"freeze": False, "early_stopping": True, "evaluate_every": 1, "patience": 2, "steps": 9}
    recipe = replace(RECIPE, head="ridge", learning_rate=1e3, **options)
    other = copy.deepcopy(network)
    worse = pretrain.finetune_network(network, digits, labels=100, recipe=recipe, fabric=fabric)
    fitted = pretrain.finetune_network(other, digits, labels=100, recipe=RECIPE, fabric=fabric)
    assert worse.steps < 9
    assert worse.validation.accuracy == fitted.validation.accuracy


def test_of_equal_penalties_the_strongest_is_chosen(network, digits):
    few = digits.train.subset(torch.arange(40))
    fitted = fit_head(network, few, few, "ridge", flip=False)
    best = max(fitted.penalties.values())
    assert fitted.penalty == max(penalty for penalty, value in fitted.penalties.items() if value == best)
    assert list(fitted.penalties.values()).count(best) > 1


def test_the_head_that_is_chosen_is_the_one_that_runs_in_low_precision_too(network, digits):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fitted = fit_head(network, digits.train.subset(torch.arange(80)), digits.validation, "logistic", flip=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        accuracy = pretrain.evaluate(network, digits.validation).accuracy
    assert fitted.penalties[fitted.penalty] == accuracy == max(fitted.penalties.values())
    assert len(set(fitted.penalties.values())) > 1


def test_a_head_cannot_be_chosen_without_validation_images(network, digits):
    none = digits.validation.subset(torch.arange(0))
    with pytest.raises(UserError, match="head=ridge needs validation images"):
        fit_head(network, digits.train, none, "ridge", flip=False)


@pytest.mark.parametrize("options", [{}, {"head": "ridge"}, {"freeze": True}])
def test_only_a_fitted_head_on_frozen_layers_may_do_without_steps(options):
    with pytest.raises(UserError, match="steps=0: nothing would learn"):
        pretrain.Recipe(steps=0, **options)


@pytest.mark.parametrize("how", ["ridge", "logistic"])
def test_a_head_is_not_fitted_to_what_are_no_numbers(network, digits, how):
    network.layers[1].conv.weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match="the output of layer 2 has values that are not finite numbers"):
        fit_head(network, digits.train, digits.validation, how, flip=False)
