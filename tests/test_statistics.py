import gc
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pretrain.comparison.crossed_effects import crossed_effects
from pretrain.comparison.hypothesis_tests import detectable_difference, holm_corrected, paired_p, smallest_detectable
from pretrain.comparison.paired_differences import by_image, effect_size, effects_of, estimate
from pretrain.comparison.verdicts import arm_estimates, as_json, compare_arms, verdict

# Student's own data, sleep gained with two drugs by the same ten patients (Student 1908, Biometrika 6).
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def table(arms, labels=100):
    return pd.DataFrame(
        [
            {"arm": arm, "labels": labels, "seed": seed, "test_accuracy": value}
            for arm, values in arms.items()
            for seed, value in enumerate(values)
        ]
    )


def test_the_paired_test_gives_the_published_result_for_students_sleep_data():
    difference = np.subtract(DRUG_2, DRUG_1)
    assert paired_p(difference) == pytest.approx(0.002833, abs=1e-6)
    interval = estimate(difference)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-6)


def test_the_interval_equals_that_of_scipys_paired_test():
    interval, theirs = estimate(np.subtract(DRUG_2, DRUG_1)), stats.ttest_rel(DRUG_2, DRUG_1).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


# The factors are those of Hedges (1981), table 1, for m degrees of freedom, here n - 1.
@pytest.mark.parametrize(("m", "factor"), [(2, 0.5642), (3, 0.7236), (4, 0.7979), (9, 0.9139), (10, 0.9228)])
def test_the_effect_size_has_the_correction_that_hedges_published(m, factor):
    x = np.random.default_rng(m).normal(1, 1, m + 1)
    assert effect_size(x) == pytest.approx(factor * x.mean() / x.std(ddof=1), rel=1e-4)


def test_the_effect_size_has_no_bias():
    # The mean over 20,000 samples has a standard error of 0.007, so an error of 0.035 has a probability below 1e-6.
    samples = np.random.default_rng(3).normal(1.5, 1.0, (20_000, 6))
    sizes = [effect_size(x) for x in samples]
    assert np.std(sizes) / np.sqrt(len(sizes)) < 0.0075
    assert abs(np.mean(sizes) - 1.5) < 0.035


def test_the_effect_size_without_spread_is_infinite_or_zero():
    assert effect_size([0.5] * 6) == math.inf
    assert effect_size([-0.5] * 6) == -math.inf
    assert effect_size([0.0] * 6) == 0
    # Two values have no unbiased effect size.
    assert math.isnan(effect_size([0.1, 0.3]))


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_the_smallest_detectable_difference_has_a_power_of_80_percent(n):
    """The statistic has a noncentral t distribution, with P(|T| > critical value) = 0.8."""
    x = np.random.default_rng(n).normal(0.1, 0.02, n)
    noncentrality = smallest_detectable(effects_of(x)) / stats.sem(x)
    critical = stats.t.ppf(0.975, n - 1)
    # SciPy has no number for the far tail where it is next to 0.
    far = np.nan_to_num(stats.nct.cdf(-critical, n - 1, noncentrality))
    power = stats.nct.sf(critical, n - 1, noncentrality) + far
    assert power == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("differences", [[0.1], [0.1] * 6])
def test_without_spread_there_is_no_smallest_detectable_difference(differences):
    assert math.isnan(smallest_detectable(effects_of(differences)))


def test_pairing_follows_the_seed_and_not_the_order_of_the_rows():
    results = table({"scratch": DRUG_1, "pretrained": DRUG_2}).sample(frac=1, random_state=1)
    (paired,) = compare_arms(results, "scratch")
    assert paired.difference.mean == pytest.approx(1.58)
    assert paired.p == pytest.approx(stats.ttest_rel(DRUG_2, DRUG_1).pvalue)
    assert paired.verdict == "helps"


def test_seeds_that_only_one_arm_has_are_left_out():
    (paired,) = compare_arms(table({"scratch": DRUG_1[:6], "pretrained": DRUG_2}), "scratch")
    assert paired.difference.n == 6
    assert paired.difference.mean == pytest.approx(np.subtract(DRUG_2[:6], DRUG_1[:6]).mean())


def test_holms_correction_is_computed_as_by_hand_and_keeps_the_order():
    # The smallest p value is multiplied by 3 and the next by 2, and none falls below a smaller one.
    assert holm_corrected([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_holms_correction_covers_the_budgets_of_an_arm():
    generator = np.random.default_rng(0)
    frames = []
    for labels, effect in ((10, 0.3), (20, 0.02), (40, 0.1)):
        scratch = generator.normal(0.5, 0.05, 6)
        pretrained = scratch + generator.normal(effect, 0.05, 6)
        frames.append(table({"scratch": scratch, "pretrained": pretrained}, labels))
    paired = compare_arms(pd.concat(frames), "scratch")
    raw = sorted(c.p for c in paired)
    holm = np.minimum(1, np.maximum.accumulate([raw[0] * 3, raw[1] * 2, raw[2]]))
    assert sorted(c.p_corrected for c in paired) == pytest.approx(holm)


def test_the_order_of_rows_changes_no_number():
    results = pd.concat([table({"scratch": DRUG_1, "pretrained": DRUG_2}, labels) for labels in (10, 20)])
    shuffled = results.sample(frac=1, random_state=1)
    assert compare_arms(shuffled, "scratch") == compare_arms(results, "scratch")


def test_a_run_without_an_accuracy_counts_as_missing():
    results = table({"scratch": DRUG_1, "pretrained": DRUG_2, "failed": [math.nan] * 10})
    results.loc[results["seed"] == 3, "test_accuracy"] = math.nan
    (paired,) = compare_arms(results, "scratch")
    assert paired == compare_arms(results.dropna(), "scratch")[0]
    assert arm_estimates(results)["pretrained", 100].n == paired.difference.n == 9


def test_two_runs_of_the_same_arm_budget_and_seed_are_refused():
    results = table({"scratch": DRUG_1, "pretrained": DRUG_2})
    with pytest.raises(ValueError, match="duplicate"):
        compare_arms(pd.concat([results, results[:1]]), "scratch")


def test_differences_that_differ_by_rounding_alone_are_equal():
    scratch = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    results = table({"scratch": scratch, "pretrained": scratch + 0.1})
    (paired,) = compare_arms(results, "scratch")
    assert paired.p == pytest.approx(2 / 64)  # sign test
    assert paired.effect == math.inf
    assert as_json(results, [paired], [])["comparisons"][0]["effect_size"] is None
    assert (paired.difference.low, paired.difference.high) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.0], "too few seeds"),
        ([1.0, 1.1, 0.9, 1.0, 1.05], "helps"),
        ([-1.0, -1.1, -0.9, -1.0, -1.05], "hurts"),
        ([1.0, -1.1, 0.9, -1.0, 0.1], "no detectable difference"),
        ([0.0, 0.0, 0.0, 0.0, 0.0], "no detectable difference"),
        ([0.5] * 5, "no detectable difference"),  # sign test, p = 2/32
        ([0.5] * 6, "helps"),  # sign test, p = 2/64
    ],
)
def test_the_verdict_follows_seeds_p_and_sign(difference, expected):
    assert verdict(estimate(difference), paired_p(difference)) == expected


def test_no_detectable_difference_says_what_is_unlikely_and_what_is_missed():
    scratch, difference = np.full(5, 0.5), np.array([0.01, -0.01, 0.02, 0.0, 0.005])
    (paired,) = compare_arms(table({"scratch": scratch, "pretrained": scratch + difference}), "scratch")
    mean, deviation = 0.005, np.std(difference, ddof=1)
    beyond = 100 * (mean + 2.776445 * deviation / math.sqrt(5))  # t of 4 degrees of freedom
    missed = 100 * 1.681997 * deviation  # power 0.8 with five, by the noncentral t
    unlikely = f". A difference of more than {beyond:.1f} points is unlikely; "
    assert paired.sentence().endswith(f"{unlikely}one of less than {missed:.1f} points is easily missed.")


def runs(generator, comparisons, seeds, budgets, gain):
    """Return accuracies of two arms, (comparisons, budgets, seeds), which share the noise of the labelled subset."""
    shape = (comparisons, budgets, seeds)
    subset = generator.normal(0.5, 0.02, shape)
    true = [subset + extra + generator.normal(0, 0.003, shape) for extra in (0, gain)]
    return [generator.binomial(10_000, p) / 10_000 for p in true]


# The standard deviation of a paired difference of these runs.
SPREAD = math.sqrt(2 * (0.003**2 + 0.25 / 10_000))


def within(successes, trials, probability):
    """Return whether a count lies in the central interval of a binomial distribution with probability 1 - 1e-6."""
    low, high = stats.binom.interval(1 - 1e-6, trials, probability)
    return low <= successes <= high


@pytest.mark.statistical
@pytest.mark.parametrize("seeds", [5, 10])
def test_on_simulated_runs_intervals_cover_and_the_detectable_difference_is_found(seeds):
    gain = detectable_difference(seeds, SPREAD**2)
    scratch, better = runs(np.random.default_rng(seeds), 2000, seeds, 1, gain)
    differences = (better - scratch)[:, 0]
    intervals = [estimate(x) for x in differences]
    assert within(sum(d.low <= gain <= d.high for d in intervals), 2000, 0.95)
    said = [verdict(d, paired_p(x)) for d, x in zip(intervals, differences, strict=True)]
    assert within(said.count("helps"), 2000, 0.80)


@pytest.mark.statistical
def test_on_simulated_runs_without_a_difference_an_arm_seldom_gets_a_verdict_at_any_budget():
    # Each call of multipletests collects garbage, which is slow when much is loaded.
    gc.freeze()
    scratch, same = runs(np.random.default_rng(6), 200, 5, 6, 0.0)
    wrong = 0
    for a, b in zip(scratch, same, strict=True):
        frames = [table({"scratch": a[k], "pretrained": b[k]}, labels=10 * 2**k) for k in range(6)]
        wrong += any(c.verdict in ("helps", "hurts") for c in compare_arms(pd.concat(frames), "scratch"))
    gc.unfreeze()
    # A rate of 5% exceeds this count with a probability of 1e-6. Without correction, six budgets would have a rate of
    # 26%, which stays below this count with a probability of 1e-5.
    assert wrong <= stats.binom.isf(1e-6, 200, 0.05)


def test_one_seed_gives_no_interval_and_valid_json():
    results = table({"scratch": [0.5], "pretrained": [0.6]})
    values = json.loads(json.dumps(as_json(results, compare_arms(results, "scratch"), []), allow_nan=False))
    assert values["comparisons"][0]["low"] is None
    assert values["comparisons"][0]["verdict"] == "too few seeds"
    assert math.isclose(values["comparisons"][0]["mean"], 0.1)
    for unknown in ("low_new_images", "high_new_images", "effect_size", "smallest_detectable"):
        assert values["comparisons"][0][unknown] is None


def test_the_json_holds_every_statistic():
    results = table({"scratch": DRUG_1, "pretrained": DRUG_2})
    (c,) = compare_arms(results, "scratch")
    (row,) = as_json(results, [c], [])["comparisons"]
    assert (row["low"], row["high"], row["low_new_images"]) == (c.difference.low, c.difference.high, None)
    assert row["effect_size"] == pytest.approx(0.9139 * 1.284560, rel=1e-4)  # Hedges' factor times mean / deviation
    assert row["smallest_detectable"] == pytest.approx(0.996002 * 1.229995, rel=1e-5)  # power 0.8 with ten
    assert row["verdict"] == "helps"


def kept(correct, labels=100):
    """Return the results of arms whose runs kept what they got right: {arm: (n, m) of 0 and 1}."""
    rows = [
        {"arm": arm, "labels": labels, "seed": seed, "test_accuracy": run.mean(), "correct": run.astype(bool)}
        for arm, runs in correct.items()
        for seed, run in enumerate(np.asarray(runs))
    ]
    return pd.DataFrame(rows)


def two_arms(generator, seeds=5, images=200, gain=0.0, image_effect=0.8):
    """Return what two arms get right, (2, seeds, images), where images are harder for one arm than for the other."""
    own = generator.normal(0, image_effect, (2, 1, images)) + generator.normal(0, 0.1, (2, seeds, 1))
    chance = generator.normal(0, 1, (2, seeds, images))
    both = generator.normal(0, 1, (1, 1, images)) + generator.normal(0, 0.1, (1, seeds, 1))
    spread = math.sqrt(1 + image_effect**2 + 0.01 + 1 + 0.01)
    at = spread * stats.norm.ppf([0.7, 0.7 + gain]).reshape(2, 1, 1)
    return own + chance + both + at > 0


# Two seeds and three images. The differences are (1, 1, 0) and (1, 0, -1), so their means are 2/3 and 0.
RIGHT = {"scratch": [[0, 0, 1], [0, 1, 1]], "pretrained": [[1, 1, 1], [1, 1, 0]]}


def test_both_intervals_are_as_computed_by_hand():
    """The analysis of variance of the six differences, whose mean is 1/3.

    Means over images are 2/3 and 0, so their variance is 2/9. Means over seeds are 1, 1/2 and -1/2, so their variance
    is 7/12, twice of which is 7/6. What is left is (-1/3, 1/6, 1/6) and its opposite, with a sum of squares of 1/3 on
    2 degrees of freedom, 1/6. The images' part is thus (7/6 - 1/6) / 6 = 1/6, beside (2/9) / 2 = 1/9 of the seeds.
    """
    (paired,) = compare_arms(kept(RIGHT), "scratch")
    d, variance, degrees = paired.difference, 1 / 9 + 1 / 6, (5 / 2) ** 2
    margin = stats.t.ppf(0.975, 1) * math.sqrt(1 / 9)
    assert (d.mean, d.low, d.high) == pytest.approx((1 / 3, 1 / 3 - margin, 1 / 3 + margin))
    # One degree of freedom gives seeds alone the wider interval, though not the greater p value, 1/2.
    assert stats.t.ppf(0.975, degrees) * math.sqrt(variance) < margin
    assert d.new_images == (d.low, d.high)
    assert paired.p == pytest.approx(2 * stats.t.sf((1 / 3) / math.sqrt(variance), degrees))
    assert paired.p > paired_p([2 / 3, 0]) == pytest.approx(1 / 2)


def test_p_and_the_interval_for_new_images_are_those_of_crossed_effects_where_these_are_wider():
    correct = two_arms(np.random.default_rng(0), seeds=10)
    effects = crossed_effects(correct[1].astype(float) - correct[0])
    assert effects.image_variance > effects.seed_variance / 10
    (paired,) = compare_arms(kept({"scratch": correct[0], "pretrained": correct[1]}), "scratch")
    assert paired.difference.new_images == pytest.approx(effects.interval(0.95))
    assert paired.p == pytest.approx(effects.p)
    assert paired.difference.new_images[0] < paired.difference.low < paired.difference.high


def test_without_an_effect_of_images_both_intervals_are_students():
    # Both seeds of a pair get the same number of images right, and every image as often.
    wrong = np.eye(6, dtype=bool)
    differences = np.stack([np.roll(wrong, k, axis=1)[0] for k in range(6)])
    results = kept({"scratch": ~differences, "pretrained": ~(differences & (np.arange(6) > 2)[:, None])})
    (with_images,), (alone,) = (compare_arms(each, "scratch") for each in (results, results.drop(columns="correct")))
    # Each image was missed once by one arm and at most once by the other, so nothing is left for the images.
    assert with_images.difference.new_images == pytest.approx((alone.difference.low, alone.difference.high))
    assert with_images.p == alone.p == pytest.approx(stats.ttest_1samp([1, 1, 1, 0, 0, 0], 0).pvalue)
    assert with_images.detectable == alone.detectable


def test_a_verdict_needs_more_than_that_new_seeds_agree_on_these_images():
    # Of 20 images, three are always better with one arm and one is always worse. Seeds vary little.
    better = np.zeros((5, 20), dtype=bool)
    better[:, :3], better[0, 3], better[1, 4] = True, True, True
    scratch = ~better
    pretrained = np.ones((5, 20), dtype=bool)
    pretrained[:, 19] = False
    results = kept({"scratch": scratch, "pretrained": pretrained})
    (alone,) = compare_arms(results.drop(columns="correct"), "scratch")
    assert (alone.verdict, alone.difference.new_images) == ("helps", None)
    assert "(95% interval +" in alone.sentence()
    (paired,) = compare_arms(results, "scratch")
    low, high = paired.difference.low, paired.difference.high
    assert low > 0 > paired.difference.new_images[0]
    assert paired.verdict == "no detectable difference"
    assert paired.p > 0.05 > alone.p
    assert paired.detectable > alone.detectable
    assert paired.sentence().endswith(
        f"On these very test images, new seeds would give {100 * low:+.2f} to {100 * high:+.2f}."
    )
    assert "95% interval for new seeds and images -" in paired.sentence()
    row = as_json(results, [paired], [])["comparisons"][0]
    assert (row["low"], row["low_new_images"]) == (low, paired.difference.new_images[0])


@pytest.mark.parametrize("lost", [None, np.ones(7, dtype=bool), math.nan])
def test_where_a_run_kept_no_predictions_or_others_the_comparison_is_over_seeds_alone(lost):
    correct = two_arms(np.random.default_rng(1))
    results = kept({"scratch": correct[0], "pretrained": correct[1]})
    other = kept({"scratch": correct[1], "pretrained": correct[0]}, labels=200)
    results.at[2, "correct"] = lost
    first, second = compare_arms(pd.concat([results, other], ignore_index=True), "scratch")
    (alone,) = compare_arms(results.drop(columns="correct"), "scratch")
    assert (first.difference, first.p, first.detectable) == (alone.difference, alone.p, alone.detectable)
    assert second.difference.new_images is not None
    estimates = arm_estimates(results)
    assert estimates["scratch", 100].new_images is None
    assert estimates["pretrained", 100].new_images is not None


def test_one_seed_or_one_image_gives_no_interval_for_new_images():
    correct = two_arms(np.random.default_rng(2))
    for few in (correct[:, :1], correct[:, :, :1]):
        (paired,) = compare_arms(kept({"scratch": few[0], "pretrained": few[1]}), "scratch")
        assert paired.difference.new_images is None
    assert by_image([]) is None


def test_the_order_of_rows_and_of_images_changes_no_interval():
    correct = two_arms(np.random.default_rng(3))
    results = kept({"scratch": correct[0], "pretrained": correct[1]})
    assert compare_arms(results.sample(frac=1, random_state=1), "scratch") == compare_arms(results, "scratch")
    mixed = np.random.default_rng(4).permutation(correct, axis=2)
    (moved,), (paired,) = (
        compare_arms(kept({"scratch": each[0], "pretrained": each[1]}), "scratch") for each in (mixed, correct)
    )
    assert moved.difference.new_images == pytest.approx(paired.difference.new_images)
    assert moved.p == pytest.approx(paired.p)


def test_the_detectable_difference_has_a_power_of_80_percent_over_seeds_and_images():
    correct = two_arms(np.random.default_rng(5), seeds=8)
    d = correct[1].astype(float) - correct[0]
    effects = crossed_effects(d)
    noncentrality = smallest_detectable(effects_of(d.mean(axis=1), d)) / math.sqrt(effects.variance)
    critical = stats.t.ppf(0.975, effects.degrees_of_freedom)
    assert stats.nct.sf(critical, effects.degrees_of_freedom, noncentrality) == pytest.approx(0.8, abs=1e-5)


@pytest.mark.statistical
@pytest.mark.parametrize(("seeds", "alone"), [(5, 0.12), (10, 0.25)])
def test_on_simulated_images_verdicts_are_seldom_false_for_new_images(seeds, alone):
    """An interval over seeds alone would be false too often: half the variance and more is due to the images."""
    generator, draws, said = np.random.default_rng(seeds), 500, []
    for _ in range(draws):
        scratch, same = two_arms(generator, seeds).astype(float)
        d = same - scratch
        e = estimate(d.mean(axis=1), d)
        said.append((e.low <= 0 <= e.high, e.new_images[0] <= 0 <= e.new_images[1], paired_p(d.mean(axis=1), d) < 0.05))
    over_seeds, covered, false = np.sum(said, axis=0)
    assert draws - over_seeds > alone * draws / 2
    assert within(covered, draws, 0.95)
    assert covered == draws - false


@pytest.mark.statistical
def test_on_simulated_images_a_known_difference_is_covered():
    generator, draws, gain = np.random.default_rng(9), 500, 0.05
    covered = 0
    for _ in range(draws):
        scratch, better = two_arms(generator, 5, gain=gain).astype(float)
        low, high = estimate((better - scratch).mean(axis=1), better - scratch).new_images
        covered += low <= gain <= high
    assert within(covered, draws, 0.95)
