"""Differences by class: known answers, their sum, and names of classes in figures and sentences."""

import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pretrain.comparison.class_differences import class_differences, class_rows
from pretrain.comparison.crossed_effects import crossed_effects
from pretrain.comparison.hypothesis_tests import holm_corrected
from pretrain.comparison.paired_predictions import PairedPredictions, pair_predictions
from pretrain.comparison.sequential_looks import ONE_LOOK, doubling_looks
from pretrain.pictures.drawing import own_style
from pretrain.reporting.class_figures import class_sentence, draw_class_differences
from pretrain.reporting.plotting import inline, save_svg_and_png

STYLE = {"color": "#0072B2", "marker": "s"}
ODD_NAMES = ["$", "$$", "$x_1$", r"\frac", "caf\udce9", "猫", "a\nb", "<b>", "&", "", "{}", "\x1b[31m", "#000000"]


def predictions(truth, arm, baseline, labels=100):
    """Return predictions of two arms from what is correct, (n, m) each; a mistake is the next class."""
    truth, arm, baseline = (np.asarray(each) for each in (truth, arm, baseline))
    of = [np.where(correct, truth, truth + 1) for correct in (arm, baseline)]
    return PairedPredictions("pretrained", "scratch", labels, truth, *of)


def drawn(classes, images, n, gain=0.0, rng=0):
    """Return predictions with images that differ in difficulty, and with a gain in class 0."""
    draw = np.random.default_rng(rng)
    truth = draw.permutation(np.repeat(np.arange(classes), images))
    hard = draw.uniform(0.3, 0.9, len(truth))
    rates = np.clip(hard + gain * (truth == 0), 0, 1), hard
    return predictions(truth, *(draw.random((n, len(truth))) < rate for rate in rates))


def test_the_difference_of_a_class_is_that_of_its_recalls():
    paired = predictions(
        [0, 0, 1, 1, 1, 1],
        [[1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0]],
        [[1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]],
    )
    first, second = class_differences(paired, ["cat", "dog"])
    assert (first.name, first.images, first.arm_recall, first.baseline_recall) == ("cat", 2, 0.75, 0.25)
    assert (first.mean, first.by_seed) == (0.5, (0.5, 0.5))
    assert (second.name, second.images, second.arm_recall, second.baseline_recall) == ("dog", 4, 0.25, 0.625)
    assert (second.mean, second.by_seed) == (-0.375, (-0.5, -0.25))


def test_the_interval_holds_for_new_seeds_and_new_images_of_the_class_and_p_is_corrected_over_the_classes():
    paired = drawn(4, 50, 5, gain=0.4)
    found = {each.name: each for each in class_differences(paired, "abcd")}
    expected = {}
    for k, name in enumerate("abcd"):
        of_class = paired.truth == k
        expected[name] = crossed_effects(1.0 * paired.arm_correct[:, of_class] - paired.baseline_correct[:, of_class])
        low, high = expected[name].interval(0.95)
        seeds = stats.ttest_1samp(found[name].by_seed, 0)
        alone = seeds.confidence_interval(0.95)
        assert (found[name].low, found[name].high) == pytest.approx((min(low, alone.low), max(high, alone.high)))
        assert found[name].p == pytest.approx(max(expected[name].p, seeds.pvalue))
    corrected = holm_corrected([found[name].p for name in "abcd"])
    assert [found[name].p_corrected for name in "abcd"] == pytest.approx(corrected)
    assert class_sentence([*found.values()]) == (
        "With 100 labels, pretrained is better on a; no class is detectably worse."
    )


@pytest.mark.parametrize("rng", range(5))
def test_the_mean_of_the_classes_weighted_by_their_images_is_the_overall_difference(rng):
    draw = np.random.default_rng(rng)
    truth = draw.integers(0, 7, 300)
    paired = predictions(truth, draw.random((4, 300)) < 0.7, draw.random((4, 300)) < 0.6)
    found = class_differences(paired, [*map(str, range(7))])
    overall = paired.arm_correct.mean() - paired.baseline_correct.mean()
    assert sum(each.images * each.mean for each in found) / 300 == pytest.approx(overall)
    by_seed = sum(each.images * np.array(each.by_seed) for each in found) / 300
    assert by_seed == pytest.approx(paired.arm_correct.mean(axis=1) - paired.baseline_correct.mean(axis=1))


def test_classes_are_sorted_by_their_differences_and_of_equal_ones_by_number():
    found = class_differences(drawn(8, 20, 3), [*map(str, range(8))])
    assert [each.mean for each in found] == sorted((each.mean for each in found), reverse=True)
    everything = np.ones((2, 6), dtype=bool)
    equal = class_differences(predictions([2, 1, 0, 2, 1, 0], everything, everything), "abc")
    assert [each.name for each in equal] == ["a", "b", "c"]


def test_a_class_without_test_images_is_left_out_and_one_with_a_single_image_has_no_interval():
    paired = predictions([0, 0, 2], [[1, 1, 1], [1, 0, 1]], [[0, 1, 0], [0, 1, 0]])
    found = {each.name: each for each in class_differences(paired, ["a", "b", "c"])}
    assert set(found) == {"a", "c"}
    assert found["c"].mean == 1
    assert np.isnan([found["c"].low, found["c"].high, found["c"].p, found["c"].p_corrected]).all()
    # Holm's family holds the classes that were tested.
    assert found["a"].p_corrected == found["a"].p
    assert json.loads(json.dumps(class_rows([*found.values()]), allow_nan=False))[0]["p"] is None


def test_a_single_seed_has_no_interval():
    (only,) = class_differences(predictions([0, 0], [[1, 1]], [[0, 1]]), "a")
    assert (only.mean, np.isnan(only.low), np.isnan(only.p)) == (0.5, True, True)
    assert class_sentence([only]) == "With 100 labels, there are too few seeds for a claim about single classes."


@pytest.mark.parametrize(("seeds", "p"), [(5, 2 / 2**5), (8, 2 / 2**8)])
def test_seeds_that_agree_by_chance_are_no_certain_proof(seeds, p):
    """Each seed gains one image, another one each time: the sign test over seeds is all that is known."""
    truth = np.zeros(seeds * 2, dtype=int)
    arm = np.zeros((seeds, seeds * 2), dtype=bool)
    arm[range(seeds), range(seeds)] = True
    (only,) = class_differences(predictions(truth, arm, np.zeros_like(arm)), "a")
    assert only.p == pytest.approx(p)
    assert only.is_detectable == (p < 0.05)


def test_bounds_lie_between_no_image_and_every_image():
    found = class_differences(predictions([0, 0], [[1, 0], [1, 1], [1, 0]], [[0, 1], [0, 0], [0, 0]]), "a")
    assert -1 <= found[0].low < found[0].mean < found[0].high <= 1


def test_hardly_any_comparison_without_a_difference_names_a_class():
    named = sum(
        any(each.is_detectable for each in class_differences(drawn(10, 36, 5, rng=k), "abcdefghij")) for k in range(40)
    )
    assert named <= 6  # of 40: 5% would be 2, and more than 6 have a chance of 1 in 300


def runs_of(paired, labels=100, seeds=(3, 1, 2)):
    rows = [
        {"arm": arm, "labels": labels, "seed": seed, "predicted": predicted}
        for arm, of in ((paired.arm, paired.of_arm), (paired.baseline, paired.of_baseline))
        for seed, predicted in zip(seeds, of, strict=True)
    ]
    return pd.DataFrame(rows)


def test_runs_are_paired_by_seed_whatever_their_order():
    paired = drawn(3, 10, 3)
    runs = pd.concat([runs_of(paired), runs_of(drawn(3, 10, 3, rng=1), 20)], ignore_index=True)
    for rng in range(3):
        small, large = pair_predictions(runs.sample(frac=1, random_state=rng), paired.truth, "pretrained", "scratch")
        assert (small.labels, large.labels, large.seeds) == (20, 100, 3)
        assert (large.of_arm == paired.of_arm[[1, 2, 0]]).all()
        assert (large.of_baseline == paired.of_baseline[[1, 2, 0]]).all()


def test_only_seeds_that_both_arms_have_and_runs_that_kept_predictions_count():
    paired = drawn(3, 10, 3)
    runs = runs_of(paired)
    missing = runs[~((runs["arm"] == "scratch") & (runs["seed"] == 1))]
    (both,) = pair_predictions(missing, paired.truth, "pretrained", "scratch")
    assert (both.of_baseline == paired.of_baseline[[2, 0]]).all()
    old = runs.assign(predicted=[None if k == 0 else each for k, each in enumerate(runs["predicted"])])
    (both,) = pair_predictions(old, paired.truth, "pretrained", "scratch")
    assert (both.of_arm == paired.of_arm[[1, 2]]).all()
    assert pair_predictions(runs.assign(predicted=None), None, "pretrained", "scratch") == []
    assert pair_predictions(runs[runs["arm"] == "scratch"], paired.truth, "pretrained", "scratch") == []


def test_names_of_classes_are_drawn_as_they_are_written(tmp_path, recwarn):
    found = class_differences(drawn(len(ODD_NAMES), 5, 5), ODD_NAMES)
    with own_style():
        figure = draw_class_differences(found, STYLE)
        labels = figure.axes[0].get_yticklabels()
        svg = save_svg_and_png(figure, tmp_path / "figures" / "classes")
    assert not recwarn.list
    shown = {"caf\udce9": "caf\ufffd", "\x1b[31m": "\ufffd[31m"}
    assert [label.get_text() for label in labels] == [shown.get(each.name, each.name) for each in found]
    assert not any(label.get_parse_math() for label in labels)
    ElementTree.fromstring(svg)
    page = inline(svg, "classes")
    assert "<b>" not in page
    assert ">#000000</text>" in page


def test_long_names_leave_room_for_the_differences():
    found = class_differences(drawn(2, 9, 5), ["a" * 300, "m" * 24])
    with own_style():
        figure = draw_class_differences(found, STYLE)
        figure.draw_without_rendering()
    assert [len(label.get_text()) for label in figure.axes[0].get_yticklabels()] == [24, 24]
    assert figure.axes[0].get_position().width > 0.2


@pytest.mark.parametrize(
    ("classes", "rows"),
    [(20, 20), (21, 20), (100, 20)],
)
def test_of_many_classes_the_highest_and_the_lowest_are_drawn(classes, rows):
    names = [f"class {k}" for k in range(classes)]
    found = class_differences(drawn(classes, 6, 3), names)
    with own_style():
        axes = draw_class_differences(found, STYLE).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    wanted = [each.name for each in found]
    assert labels == (wanted if classes <= rows else wanted[:10] + wanted[-10:])


def test_classes_that_differ_are_bold():
    found = class_differences(drawn(4, 60, 5, gain=0.5), "abcd")
    with own_style():
        labels = draw_class_differences(found, STYLE).axes[0].get_yticklabels()
    bold = {label.get_text() for label in labels if label.get_fontweight() == "bold"}
    assert "a" in bold
    assert bold == {each.name for each in found if each.p_corrected < 0.05}


def test_the_sentence_names_few_classes_each_in_one_line():
    n, m = 12, 30
    names = [f"x\ny{k}" for k in range(14)]
    truth = np.repeat(np.arange(14), m)
    right = np.random.default_rng(0).random((n, 14 * m)) < 0.98
    better = predictions(truth, right, ~right)
    said = class_sentence(class_differences(better, names))
    assert said.count("x y") == 10
    assert said.endswith(" and 4 more; no class is detectably worse.")
    assert "\n" not in said
    both = predictions(truth, np.where(truth < 13, right, ~right), np.where(truth < 13, ~right, right))
    assert class_sentence(class_differences(both, names)).endswith("and 3 more and worse on x y13.")


def test_several_looks_widen_the_intervals_and_raise_the_p_values_of_classes():
    paired, names = drawn(4, 30, 5), "abcd"
    once, often = (class_differences(paired, names, looks) for looks in (ONE_LOOK, doubling_looks(40)))
    for alone, among in zip(once, often, strict=True):
        assert (alone.name, alone.mean, alone.p) == (among.name, among.mean, among.p)
        assert among.low <= alone.low <= alone.high <= among.high
        assert among.p_corrected >= alone.p_corrected
    assert any(among.low < alone.low for alone, among in zip(once, often, strict=True))
