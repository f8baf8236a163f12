import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pretrain.statistics import as_json, compare_arms, estimate, paired_p, verdict

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


def test_the_paired_test_gives_the_published_result_of_students_sleep_data():
    difference = np.subtract(DRUG_2, DRUG_1)
    assert paired_p(difference) == pytest.approx(0.002833, abs=1e-6)
    interval = estimate(difference)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-6)


def test_pairing_follows_the_seed_and_not_the_order_of_the_rows():
    results = table({"scratch": DRUG_1, "pretrained": DRUG_2}).sample(frac=1, random_state=1)
    (comparison,) = compare_arms(results, "scratch")
    assert comparison.difference.mean == pytest.approx(1.58)
    assert comparison.p == pytest.approx(stats.ttest_rel(DRUG_2, DRUG_1).pvalue)
    assert comparison.verdict == "helps"


def test_seeds_that_only_one_arm_has_are_left_out():
    (comparison,) = compare_arms(table({"scratch": DRUG_1[:6], "pretrained": DRUG_2}), "scratch")
    assert comparison.difference.n == 6
    assert comparison.difference.mean == pytest.approx(np.subtract(DRUG_2[:6], DRUG_1[:6]).mean())


def test_holms_correction_is_over_the_budgets_of_an_arm():
    generator = np.random.default_rng(0)
    frames = []
    for labels, effect in ((10, 0.3), (20, 0.02), (40, 0.1)):
        scratch = generator.normal(0.5, 0.05, 6)
        pretrained = scratch + generator.normal(effect, 0.05, 6)
        frames.append(table({"scratch": scratch, "pretrained": pretrained}, labels))
    comparisons = compare_arms(pd.concat(frames), "scratch")
    raw = sorted(c.p for c in comparisons)
    holm = np.minimum(1, np.maximum.accumulate([raw[0] * 3, raw[1] * 2, raw[2]]))
    assert sorted(c.p_corrected for c in comparisons) == pytest.approx(holm)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.0], "too few seeds"),
        ([1.0, 1.1, 0.9, 1.0, 1.05], "helps"),
        ([-1.0, -1.1, -0.9, -1.0, -1.05], "hurts"),
        ([1.0, -1.1, 0.9, -1.0, 0.1], "no detectable difference"),
        ([0.0, 0.0, 0.0, 0.0, 0.0], "no detectable difference"),
        ([0.5] * 5, "no detectable difference"),  # the sign test: p = 2/32
        ([0.5] * 6, "helps"),  # p = 2/64
    ],
)
def test_verdicts(difference, expected):
    assert verdict(estimate(difference), paired_p(difference)) == expected


def test_intervals_cover_the_true_mean_19_times_in_20():
    # 4,000 intervals: a share outside 0.95 +- 0.015 has a probability below 2e-5.
    draws = np.random.default_rng(1).normal(0.3, 1.0, (4000, 5))
    covered = np.mean([e.low <= 0.3 <= e.high for e in map(estimate, draws)])
    assert abs(covered - 0.95) < 0.015


def test_false_verdicts_are_as_rare_as_the_level_says():
    # 4,000 comparisons without a difference: more than 6.5% verdicts has a probability below 2e-5.
    draws = np.random.default_rng(2).normal(0.0, 1.0, (4000, 5))
    false = np.mean([verdict(estimate(x), paired_p(x)) in ("helps", "hurts") for x in draws])
    assert 0.035 < false < 0.065


def test_one_seed_gives_no_interval_and_valid_json():
    results = table({"scratch": [0.5], "pretrained": [0.6]})
    values = json.loads(json.dumps(as_json(results, compare_arms(results, "scratch")), allow_nan=False))
    assert values["comparisons"][0]["low"] is None
    assert values["comparisons"][0]["verdict"] == "too few seeds"
    assert math.isclose(values["comparisons"][0]["mean"], 0.1)
