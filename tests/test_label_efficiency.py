import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.isotonic import IsotonicRegression

from pretrain.comparison.label_efficiency import interval_of_labels, label_efficiency
from pretrain.comparison.verdicts import as_json

BUDGETS = [100, 400, 1600]


def line(labels):
    """Return an accuracy that rises by 5 points for twice the labels."""
    return 0.5 + 0.05 * np.log2(np.asarray(labels) / 100)


def results(arms, seeds=6, noise=0.0):
    """Return runs of arms given as {name: {labels: accuracy}}, where each seed shifts all of its runs alike."""
    luck = np.random.default_rng(0).normal(0, noise, seeds)
    return pd.DataFrame(
        [
            {"arm": arm, "labels": labels, "seed": seed, "test_accuracy": accuracy + luck[seed]}
            for arm, curve in arms.items()
            for labels, accuracy in curve.items()
            for seed in range(seeds)
        ]
    )


SCRATCH = dict(zip(BUDGETS, line(BUDGETS), strict=True))


def test_an_arm_that_needs_half_the_labels_is_as_accurate_as_the_baseline_with_twice_as_many():
    arm = {n: line(2 * n) for n in (100, 200, 400, 800)}
    needed = label_efficiency(results({"scratch": SCRATCH, "pretrained": arm}), "scratch")
    assert [n.labels for n in needed] == [100, 200, 400, 800]
    for n in needed:
        assert (n.estimate, n.low, n.high) == pytest.approx([2 * n.labels] * 3)
        assert not n.fewer
        assert not n.more
    assert needed[1].sentence() == "With 200 labels, pretrained is as accurate as scratch with 400 (95% interval 400)."


def test_seeds_are_resampled_for_both_arms_at_once():
    """A shift of both arms cancels, whatever its size, since the curve is linear."""
    arm = {400: line(500)}
    (needed,) = label_efficiency(results({"scratch": SCRATCH, "pretrained": arm}, noise=0.2), "scratch")
    assert (needed.estimate, needed.low, needed.high) == pytest.approx((500, 500, 500))


def test_an_equal_arm_needs_as_many_labels_in_each_resample():
    budgets = [100, 400, 1600, 6400]
    scratch = results({"scratch": dict(zip(budgets, line(budgets), strict=True))}, seeds=10)
    scratch["test_accuracy"] += np.random.default_rng(1).normal(0, 0.01, len(scratch)).round(4)
    needed = label_efficiency(pd.concat([scratch, scratch.assign(arm="twin")]), "scratch")
    assert [(n.low, n.estimate, n.high) for n in needed] == [pytest.approx((n, n, n)) for n in budgets]
    assert not any(n.fewer or n.more for n in needed)


def test_means_that_differ_by_rounding_alone_are_equal():
    accuracies = np.array([[0.1 + 0.2, 0.1, 0.3]])
    assert accuracies[0, 0] > accuracies[0, 2]
    needed, _, _ = interval_of_labels(accuracies, np.array([100, 400]), np.random.default_rng(0))
    # Unrounded, the arm would seem better than the baseline at any budget.
    assert needed == pytest.approx(400)


def test_an_accuracy_beyond_the_budgets_of_the_baseline_has_no_number():
    arm = {100: 0.4, 1600: 0.9}
    low, high = label_efficiency(results({"scratch": SCRATCH, "pretrained": arm}), "scratch")
    assert (low.estimate, low.fewer, low.more) == (0, True, False)
    assert (high.estimate, high.fewer, high.more) == (math.inf, False, True)
    assert low.sentence() == (
        "With 100 labels, pretrained is as accurate as scratch with fewer than 100 (95% interval fewer than 100)."
    )
    assert "With 1,600 labels, pretrained is as accurate as scratch with more than 1,600 (" in high.sentence()
    rows = json.loads(json.dumps(as_json(results({"scratch": SCRATCH}), [], [low, high]), allow_nan=False))
    assert [row["estimate"] for row in rows["labels_needed"]] == [0, None]
    assert [row["more"] for row in rows["labels_needed"]] == [False, True]


def test_an_interval_may_reach_beyond_the_budgets():
    runs = results({"scratch": SCRATCH, "pretrained": {400: line(1500)}})
    moved = runs["arm"] == "pretrained"
    runs.loc[moved, "test_accuracy"] += np.random.default_rng(1).normal(0, 0.01, moved.sum())
    (needed,) = label_efficiency(runs, "scratch")
    assert 400 < needed.low < needed.estimate < needed.high == math.inf
    assert needed.sentence().endswith(" to more than 1,600).")


def test_a_falling_baseline_is_made_monotone_as_by_scikit_learn():
    falling = np.array([0.5, 0.62, 0.58, 0.7])
    budgets = np.array([100, 200, 400, 800])
    monotone = IsotonicRegression().fit_transform(np.arange(4), falling)
    assert monotone[1] == monotone[2] == pytest.approx(0.6)
    reached = np.array([0.55, 0.6, 0.65])
    # At 0.6, the answer is the first of the two budgets with this accuracy.
    expected = [100 * math.sqrt(2), 200, 400 * math.sqrt(2)]
    for accuracy, labels in zip(reached, expected, strict=True):
        one = np.concatenate([[accuracy], falling])[None]
        assert interval_of_labels(one, budgets, np.random.default_rng(0))[0] == pytest.approx(labels)


def test_the_interval_of_a_mean_is_as_wide_as_students():
    """The baseline does not vary and the curve is straight, so the interval is that of the mean of the arm."""
    n = 40
    values = line(400) + np.random.default_rng(2).normal(0, 0.01, n)
    accuracies = np.column_stack([values, np.tile(line(BUDGETS), (n, 1))])
    _, low, high = interval_of_labels(accuracies, np.array(BUDGETS), np.random.default_rng(3))
    half = 2.022691 * values.std(ddof=1) / math.sqrt(n)  # t of 39 degrees of freedom
    # With 9,999 resamples, the standard error of a 2.5% point is 3% of the half width.
    assert line([low, high]) == pytest.approx([values.mean() - half, values.mean() + half], abs=0.15 * half)


def test_with_five_seeds_the_interval_reaches_to_the_second_most_extreme_resamples():
    """The widened tail for five seeds is Phi(-2.776 sqrt(5/4)) = 0.00095.

    One of the 3,125 possible resamples has the lowest mean, and five have the next: 0.00032 < 0.00095 < 0.00192.
    """
    values = line(400) + np.array([-0.02, -0.013, 0.001, 0.009, 0.02])
    accuracies = np.column_stack([values, np.tile(line(BUDGETS), (5, 1))])
    _, low, high = interval_of_labels(accuracies, np.array(BUDGETS), np.random.default_rng(0))
    expected = [(4 * values[0] + values[1]) / 5, (4 * values[4] + values[3]) / 5]
    assert line([low, high]) == pytest.approx(expected)


def test_fewer_than_five_seeds_give_a_number_but_no_interval():
    (needed,) = label_efficiency(results({"scratch": SCRATCH, "pretrained": {100: line(300)}}, seeds=4), "scratch")
    assert needed.estimate == pytest.approx(300)
    assert math.isnan(needed.low)
    assert needed.sentence().endswith("is as accurate as scratch with 300 (too few seeds for an interval).")


def test_a_baseline_with_one_budget_has_no_label_efficiency():
    assert label_efficiency(results({"scratch": {100: 0.5}, "pretrained": {100: 0.6}}), "scratch") == []
    assert label_efficiency(results({"pretrained": SCRATCH}), "scratch") == []


def test_the_order_of_rows_and_runs_without_a_partner_change_nothing():
    runs = results({"scratch": SCRATCH, "pretrained": {100: line(250)}}, noise=0.01)
    expected = label_efficiency(runs, "scratch")
    extra = runs[runs["arm"] == "pretrained"].assign(seed=lambda t: t["seed"] + 100, test_accuracy=0.9)
    extra.iloc[0, extra.columns.get_loc("test_accuracy")] = math.nan
    assert label_efficiency(pd.concat([runs, extra]).sample(frac=1, random_state=0), "scratch") == expected


def test_with_predictions_the_interval_of_a_mean_is_that_of_seeds_and_images():
    """The baseline is right as often on every image, and the curve is straight, so the arm alone moves the interval."""
    n, m = 40, 400
    generator = np.random.default_rng(4)
    images = np.empty((n, m, 4))
    images[:, :, 0] = line(400) + generator.normal(0, 0.5, m) + generator.normal(0, 0.05, (n, 1))
    images[:, :, 1:] = line(BUDGETS)
    values = images.mean(axis=1)
    arm = values[:, 0]
    _, low, high = interval_of_labels(values, np.array(BUDGETS), np.random.default_rng(3), images)
    # Images add their variance to that of seeds, each with its own quantile: of t with 39 degrees of freedom, and of
    # the normal distribution.
    of_images = images[:, :, 0].mean(axis=0).var(ddof=1) / m
    half = math.hypot(2.022691 * arm.std(ddof=1) / math.sqrt(n), 1.959964 * math.sqrt(of_images))
    assert half > 3 * 2.022691 * arm.std(ddof=1) / math.sqrt(n)
    assert line([low, high]) == pytest.approx([arm.mean() - half, arm.mean() + half], abs=0.15 * half)


def predicted(arms, seeds=6, images=300):
    """Return runs of arms, given as {name: {labels: accuracy}}, on images of one difficulty for all arms and seeds."""
    generator = np.random.default_rng(0)
    hard = generator.random(images)
    rows = []
    for arm, curve in arms.items():
        for labels, accuracy in curve.items():
            for seed in range(seeds):
                correct = hard + generator.normal(0, 0.1, images) < accuracy
                cell = {"arm": arm, "labels": labels, "seed": seed}
                rows.append(cell | {"test_accuracy": correct.mean(), "correct": correct})
    return pd.DataFrame(rows)


def test_an_interval_holds_for_new_images_where_every_run_of_it_kept_predictions():
    runs = predicted({"scratch": SCRATCH, "pretrained": {100: line(250), 400: line(900)}})
    whole = label_efficiency(runs, "scratch")
    alone = label_efficiency(runs.drop(columns="correct"), "scratch")
    assert [n.new_images for n in whole] == [True, True]
    for wide, narrow in zip(whole, alone, strict=True):
        assert not narrow.new_images
        assert (wide.estimate, wide.labels) == (narrow.estimate, narrow.labels)
        assert wide.low <= narrow.low < narrow.high <= wide.high
    assert as_json(runs, [], whole)["labels_needed"][0]["new_images"]
    # The last row is a run of the arm with 400 labels.
    runs.at[len(runs) - 1, "correct"] = None
    assert label_efficiency(runs, "scratch") == [whole[0], alone[1]]
    assert label_efficiency(runs.sample(frac=1, random_state=0), "scratch") == [whole[0], alone[1]]


def test_images_move_an_arm_and_its_twin_alike():
    runs = predicted({"scratch": SCRATCH})
    needed = label_efficiency(pd.concat([runs, runs.assign(arm="twin")], ignore_index=True), "scratch")
    assert [(n.low, n.estimate, n.high) for n in needed] == [pytest.approx((n, n, n)) for n in BUDGETS]
    assert all(n.new_images for n in needed)
