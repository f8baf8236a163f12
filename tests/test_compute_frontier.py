"""Curves whose crossing is known in closed form, a case by hand, and what must change nothing."""

import gc
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pretrain.comparison.compute_curves import paired_curves
from pretrain.comparison.compute_frontier import compute_frontiers, differences_over_compute
from pretrain.comparison.hypothesis_tests import paired_p
from pretrain.comparison.paired_differences import estimate
from pretrain.comparison.sequential_looks import doubling_looks

PRETRAINING, SLOPE = 4.0, 0.05
CHARGES = {"scratch": 0.0, "pretrained": PRETRAINING}


def runs_of(arms, seeds=6, labels=50, luck=0.02, own=0.0, charges=CHARGES, images=None):
    """Return runs of arms given as {name: {multiple: accuracy}}; fine-tuning with multiple c costs c.

    Each seed shifts all of its runs alike by `luck`, and each run has noise of its own. With `images`, a run keeps
    which of so many it classifies correctly, and an arm tends to miss the same ones.
    """
    draw = np.random.default_rng(0)
    shift, rows = draw.normal(0, luck, seeds), []
    hard = {arm: draw.random(images or 0) for arm in arms}
    for (arm, curve), seed in product(arms.items(), range(seeds)):
        for c, mean in curve.items():
            accuracy = mean + shift[seed] + draw.normal(0, own)
            correct = None
            if images:
                correct = 0.7 * hard[arm] + 0.3 * draw.random(images) < accuracy
                accuracy = correct.mean()
            cost = {"pretrain_flops": charges[arm], "finetune_flops": c}
            cost |= {"pretrain_seconds": 10 * charges[arm], "finetune_seconds": 10 * c}
            run = {"arm": arm, "labels": labels, "seed": seed, "compute": c, "test_accuracy": accuracy}
            rows.append({**run, **cost, "correct": correct})
    return pd.DataFrame(rows)


def line(multiples, start=0.5, slope=SLOPE):
    """Return an accuracy that is linear in the logarithm of the compute of fine-tuning."""
    return {c: start + slope * math.log(c) for c in multiples}


def lead(crossing):
    """Return the lead with equal steps that makes an arm cross scratch at a total compute.

    There, SLOPE * log(T - PRETRAINING) + lead = SLOPE * log(T).
    """
    return SLOPE * math.log(crossing / (crossing - PRETRAINING))


@pytest.mark.parametrize("crossing", [5.5, 9.0, 12.345])
def test_lines_in_log_compute_cross_where_the_closed_form_says(crossing):
    arms = {"scratch": line([1, 4, 16]), "pretrained": line([1, 4, 16], 0.5 + lead(crossing))}
    full, shared = compute_frontiers(runs_of(arms, own=1e-5), "scratch", shared_by=10)
    assert full.verdict == "pays from"
    assert full.crossing == pytest.approx(crossing, rel=1e-3)
    low, high = full.bounds
    assert low < crossing < high < 1.01 * low
    assert (full.arm_range, full.baseline_range) == ((5, 20), (1, 16))
    assert [end.total for end in full.ends] == [5, 16]
    # Shared by ten, pretraining costs 0.4, and the lines would cross below the least compute of both.
    assert (shared.shared_by, shared.verdict, shared.bounds) == (10, "pays", None)
    assert [end.total for end in shared.ends] == pytest.approx([1.4, 16])


def test_the_difference_at_any_compute_is_the_closed_form():
    arms = {"scratch": line([1, 3, 16]), "pretrained": line([1, 2, 16], 0.52, 0.03)}
    runs = runs_of(arms)
    (full, _) = compute_frontiers(runs, "scratch", shared_by=10)
    totals, found = differences_over_compute(runs, full, 9)
    expected = 0.02 + 0.03 * np.log(totals - PRETRAINING) - SLOPE * np.log(totals)
    assert [d.mean for d in found] == pytest.approx(expected)
    assert (totals[0], totals[-1]) == full.arm_range[:1] + full.baseline_range[1:]


def test_a_charge_moves_a_curve_by_its_exact_amount():
    runs = runs_of({"scratch": line([1, 16]), "pretrained": line([1, 4, 16])})
    curves = {n: paired_curves(runs, "pretrained", "scratch", n).arm for n in (1, 4)}
    assert list(curves[1].totals) == [5, 8, 20]
    assert list(curves[4].totals) == [2, 5, 17]
    at = np.array([5.5, 7.0, 19.0])
    assert curves[1].weights(at) == pytest.approx(curves[4].weights(at - 3))


def test_the_confidence_set_is_computed_as_by_hand():
    """Two multiples each: the difference of a seed is linear in the log of compute, and so are its quantiles' parts."""
    own = [[-0.010, 0.011], [-0.012, 0.016], [-0.006, 0.013], [-0.014, 0.008], [-0.008, 0.012]]
    rows = []
    for seed, (first, last) in enumerate(own):
        for c, difference in ((1, first), (16, last)):
            shared = {"labels": 50, "seed": seed, "compute": c, "correct": None}
            shared |= {"pretrain_flops": 0, "finetune_flops": c}
            rows += [{**shared, "arm": "scratch", "test_accuracy": 0.5}]
            rows += [{**shared, "arm": "other", "test_accuracy": 0.5 + difference}]
    (found,) = compute_frontiers(pd.DataFrame(rows), "scratch", shared_by=10)
    (a, b), s = np.mean(own, axis=0), np.cov(np.transpose(own))
    # With share w of the way, mean(w)^2 = t^2 variance(w) / 5 is a quadratic equation in w.
    t2 = 2.776445**2 / 5  # t of 4 degrees of freedom
    slope = b - a
    of_slope, of_both = s[0, 0] + s[1, 1] - 2 * s[0, 1], s[0, 1] - s[0, 0]
    shares = np.roots([slope**2 - t2 * of_slope, 2 * (a * slope - t2 * of_both), a**2 - t2 * s[0, 0]])
    assert found.shared_by == 0
    assert found.bounds == pytest.approx(16 ** np.sort(shares), rel=1e-5)
    assert found.crossing == pytest.approx(16 ** (-a / slope))
    first, last = (stats.ttest_1samp(column, 0) for column in np.transpose(own))
    assert [end.p for end in found.ends] == pytest.approx([first.pvalue, last.pvalue])
    smaller, larger = sorted([first.pvalue, last.pvalue])
    assert sorted(end.p_corrected for end in found.ends) == pytest.approx([2 * smaller, max(2 * smaller, larger)])
    assert found.ends[0].estimate.low == pytest.approx(first.confidence_interval().low)


def test_with_predictions_the_intervals_and_p_are_those_of_any_paired_difference():
    runs = runs_of({"scratch": line([1, 16]), "pretrained": line([1, 16], 0.55)}, images=40)
    (full, _) = compute_frontiers(runs, "scratch", shared_by=10)
    by_run = {(r.arm, r.compute, r.seed): r.correct.astype(float) for r in runs.itertuples()}

    def at(arm, total):
        w = math.log(total) / math.log(16)
        return np.array([(1 - w) * by_run[arm, 1, s] + w * by_run[arm, 16, s] for s in range(6)])

    for end in full.ends:
        by_image = at("pretrained", end.total - PRETRAINING) - at("scratch", end.total)
        expected = estimate(by_image.mean(axis=1), by_image)
        assert end.estimate.claimed == pytest.approx(expected.claimed)
        assert (end.estimate.mean, end.estimate.low) == pytest.approx((expected.mean, expected.low))
        assert end.p == pytest.approx(paired_p(by_image.mean(axis=1), by_image))
    one_without = runs.copy()
    one_without.at[0, "correct"] = None
    (over_seeds, _) = compute_frontiers(one_without, "scratch", shared_by=10)
    assert over_seeds.ends[0].estimate.mean == pytest.approx(full.ends[0].estimate.mean)
    assert over_seeds.ends[0].estimate.low == pytest.approx(full.ends[0].estimate.low)
    assert over_seeds.ends[0].estimate.new_images is None


def test_curves_without_a_common_compute_are_not_compared():
    arms = {"scratch": line([1, 2]), "pretrained": line([1, 2], 0.6)}
    full, shared = compute_frontiers(runs_of(arms), "scratch", shared_by=8)
    assert (full.verdict, full.ends, full.unclear) == ("not comparable", (), ())
    assert full.gap.mean == pytest.approx(0.1 - SLOPE * math.log(2))
    # From scratch, 5 times the steps cost as much as pretraining and the steps after it.
    assert full.enough == pytest.approx(5)
    assert shared.ends[0].total == 1.5


def test_an_arm_that_is_always_cheaper_is_not_compared_either():
    runs = runs_of({"pretrained": line([1, 2], 0.6), "scratch": line([1, 2])})
    full, _ = compute_frontiers(runs, "pretrained", shared_by=8)
    assert full.arm == "scratch"
    assert full.gap.mean == pytest.approx(SLOPE * math.log(2) - 0.1)
    assert full.enough == pytest.approx(5)


@pytest.mark.parametrize(("at", "verdict"), [(3.0, "pays"), (5.0, "pays"), (15.0, "not comparable")])
def test_an_arm_without_steps_is_one_point(at, verdict):
    runs = runs_of({"scratch": line([1, 4, 9]), "pretrained": {1: 0.9}}, charges={"scratch": 0, "pretrained": at - 1})
    full = compute_frontiers(runs, "scratch", shared_by=10)[0]
    assert full.verdict == verdict
    assert full.enough == (pytest.approx(15) if verdict == "not comparable" else None)
    if full.ends:
        (only,) = full.ends
        assert only.total == at
        assert only.estimate.mean == pytest.approx(0.4 - SLOPE * math.log(at))


def test_two_arms_without_steps_cannot_be_brought_together():
    full, _ = compute_frontiers(runs_of({"scratch": {1: 0.5}, "pretrained": {1: 0.6}}), "scratch", shared_by=4)
    assert full.gap.mean == pytest.approx(0.1)
    assert full.enough is None


def test_equal_arms_do_not_differ_and_do_not_cross():
    scratch = runs_of({"scratch": line([1, 4, 16])}, own=0.01, images=50)
    (found,) = compute_frontiers(pd.concat([scratch, scratch.assign(arm="twin")]), "scratch", shared_by=10)
    assert found.verdict == "no detectable difference"
    assert found.crossings == ()
    assert found.bounds == (1, 16)
    assert [(end.estimate.mean, end.p) for end in found.ends] == [(0, 1), (0, 1)]


def test_a_falling_lead_pays_up_to_the_crossing():
    other = {"scratch": 0.0, "other": 0.0}
    arms = {"scratch": line([1, 4, 16]), "other": line([1, 4, 16], 0.55, 0.02)}
    (found,) = compute_frontiers(runs_of(arms, own=1e-5, charges=other), "scratch", shared_by=10)
    assert found.verdict == "pays up to"
    assert found.crossing == pytest.approx(math.exp(0.05 / 0.03), rel=1e-3)


def test_holms_correction_covers_both_ends_of_all_budgets_of_one_charge():
    arms = {"scratch": line([1, 4, 16]), "pretrained": line([1, 4, 16], 0.5 + lead(9))}
    runs = pd.concat([runs_of(arms, labels=n, own=0.01 * k) for k, n in enumerate((20, 50, 90), 1)])
    found = compute_frontiers(runs, "scratch", shared_by=10)
    assert [(f.labels, f.shared_by) for f in found] == list(product((20, 50, 90), (1, 10)))
    for charge in (1, 10):
        ends = sorted((end.p, end.p_corrected) for f in found for end in f.ends if f.shared_by == charge)
        raw = np.array([p for p, _ in ends])
        holm = np.minimum(1, np.maximum.accumulate(raw * np.arange(6, 0, -1)))
        assert [p for _, p in ends] == pytest.approx(holm)


def test_an_end_that_only_the_correction_leaves_open_belongs_to_the_interval():
    for rng in range(12):
        draw = np.random.default_rng(rng).normal(0, 0.004, 10)
        runs = runs_of({"scratch": line([1, 16]), "pretrained": line([1, 16], 0.5 + lead(9))}, seeds=5)
        runs.loc[runs["arm"] == "pretrained", "test_accuracy"] += draw
        full = compute_frontiers(runs, "scratch", shared_by=10)[0]
        for end in full.ends:
            if end.verdict == "unclear":
                assert full.bounds[0] <= end.total <= full.bounds[1]


def test_looks_widen_the_intervals_and_the_confidence_set():
    runs = runs_of({"scratch": line([1, 4, 16]), "pretrained": line([1, 4, 16], 0.5 + lead(9))}, own=0.01)
    (once, _), (often, _) = (compute_frontiers(runs, "scratch", 10, *looks) for looks in ([], [doubling_looks(20)]))
    assert often.unclear[0][0] <= once.unclear[0][0]
    assert often.unclear[-1][1] > once.unclear[-1][1]
    for one, more in zip(once.ends, often.ends, strict=True):
        assert more.p == one.p < more.p_corrected
        assert more.estimate.low < one.estimate.low


def test_fewer_than_five_seeds_make_no_claim_and_a_single_one_has_no_interval():
    arms = {"scratch": line([1, 4, 16]), "pretrained": line([1, 4, 16], 0.5 + lead(9))}
    four = compute_frontiers(runs_of(arms, seeds=4, own=1e-5), "scratch", shared_by=10)[0]
    assert four.verdict == "too few seeds"
    assert four.crossings == pytest.approx((9,), rel=1e-3)
    one = compute_frontiers(runs_of(arms, seeds=1), "scratch", shared_by=10)[0]
    assert one.verdict == "too few seeds"
    assert one.crossings == pytest.approx((9,))
    assert math.isnan(one.ends[0].estimate.low)
    assert one.bounds == (5, 16)


def test_the_order_of_rows_and_incomplete_seeds_change_nothing():
    arms = {"scratch": line([1, 4, 16]), "pretrained": line([1, 4, 16], 0.5 + lead(9))}
    runs = runs_of(arms, own=0.01, images=30)
    expected = compute_frontiers(runs, "scratch", shared_by=10)
    partial = runs[(runs["seed"] == 0) & (runs["compute"] < 16)].assign(seed=9)
    unknown = runs[runs["seed"] == 1].assign(seed=10, test_accuracy=math.nan)
    shuffled = pd.concat([runs, partial, unknown]).sample(frac=1, random_state=0)
    assert compute_frontiers(shuffled, "scratch", shared_by=10) == expected


def test_without_a_complete_pair_of_seeds_there_is_no_frontier():
    runs = runs_of({"scratch": line([1, 4]), "pretrained": line([1, 4])})
    assert compute_frontiers(runs[runs["arm"] == "pretrained"], "scratch", shared_by=10) == []
    odd = (runs["arm"] == "scratch") == (runs["seed"] % 2 == 0)
    assert compute_frontiers(runs[odd], "scratch", shared_by=10) == []


def test_multiples_with_equal_costs_count_once():
    arms = {"scratch": line([1, 16]), "pretrained": line([1, 16], 0.6)}
    twice = runs_of(arms)
    again = twice[twice["compute"] == 1].assign(compute=1.2)
    assert compute_frontiers(pd.concat([twice, again]), "scratch", 10) == compute_frontiers(twice, "scratch", 10)


def test_runs_that_differ_by_rounding_alone_are_equal():
    runs = runs_of({"scratch": {1: 0.1, 16: 0.1}, "other": {1: 0.1, 16: 0.1}}, charges={"scratch": 0, "other": 0})
    runs.loc[runs["arm"] == "other", "test_accuracy"] += 1e-16
    (found,) = compute_frontiers(runs, "scratch", shared_by=10)
    assert (found.verdict, found.crossings) == ("no detectable difference", ())


def test_differences_without_spread_are_judged_by_the_sign_test():
    arms = {"scratch": {1: 0.5, 16: 0.5}, "other": {1: 0.6, 16: 0.6}}
    free = {"scratch": 0, "other": 0}
    (five,) = compute_frontiers(runs_of(arms, seeds=5, luck=0, charges=free), "scratch", shared_by=10)
    assert five.ends[0].p == pytest.approx(2 / 32)
    assert five.verdict == "no detectable difference"


def simulated(generator, accuracies, seeds=5, images=200):
    """Return runs whose images are easy or hard for both arms and for each, in every seed alike."""
    rows, common = [], generator.normal(0, 3, images)
    shifts = generator.normal(0, 0.3, seeds)
    for arm, curve in accuracies.items():
        own, lucks = common + generator.normal(0, 0.6, images), shifts + generator.normal(0, 0.1, seeds)
        spread = math.sqrt(1 + 3**2 + 0.6**2 + 0.3**2 + 0.1**2)
        for (c, accuracy), seed in product(curve.items(), range(seeds)):
            at = stats.norm.ppf(accuracy) * spread + lucks[seed]
            correct = own + at + generator.normal(0, 1, images) > 0
            run = {"arm": arm, "labels": 50, "seed": seed, "compute": c, "test_accuracy": correct.mean()}
            cost = {"pretrain_flops": CHARGES[arm], "finetune_flops": c}
            rows.append({**run, **cost, "correct": correct})
    return pd.DataFrame(rows)


@pytest.mark.statistical
def test_on_simulated_runs_the_crossing_is_in_its_set_and_equal_arms_seldom_get_a_verdict():
    # Each call of multipletests collects garbage, which is slow when much is loaded.
    gc.freeze()
    generator, comparisons, held, wrong = np.random.default_rng(0), 150, 0, 0
    crossing = {"scratch": line([1, 4, 16], 0.7), "pretrained": line([1, 4, 16], 0.7 + lead(9))}
    equal = {arm: dict.fromkeys([1, 4, 16], 0.8) for arm in crossing}
    for _ in range(comparisons):
        (found,) = compute_frontiers(simulated(generator, crossing), "scratch", shared_by=1)
        held += any(low <= 9 <= high for low, high in found.unclear)
        (found,) = compute_frontiers(simulated(generator, equal), "scratch", shared_by=1)
        wrong += found.verdict != "no detectable difference"
    gc.unfreeze()
    # Rates of 95% and of 5% leave these bounds with a probability of 1e-6.
    assert held >= stats.binom.ppf(1e-6, comparisons, 0.95)
    assert wrong <= stats.binom.isf(1e-6, comparisons, 0.05)
