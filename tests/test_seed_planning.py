import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_RUN
from scipy import stats
from statsmodels.stats.power import TTestPower

from pretrain import run_comparison, write_report
from pretrain.comparison.crossed_effects import crossed_effects
from pretrain.comparison.hypothesis_tests import detectable_difference
from pretrain.comparison.seed_planning import (
    images_needed,
    paired_effects,
    power,
    seed_plan,
    seeds_needed,
)
from pretrain.reporting.comparison_results import read_results
from pretrain.reporting.seed_planning_text import duration, how_many_seeds, seeds_as_json


@pytest.mark.parametrize("n", [2, 5, 11, 200])
@pytest.mark.parametrize("difference", [0.0, 0.3, -0.8, 2.0, 30.0])
@pytest.mark.parametrize("level", [0.05, 0.011])
def test_without_image_effects_the_power_is_that_of_the_paired_t_test(n, difference, level):
    spread, bound = 1.7, stats.t.ppf(1 - level / 2, n - 1)
    found, shift = power(difference, n, spread**2, level=level), difference / spread * np.sqrt(n)
    of_statsmodels = TTestPower().power(abs(difference) / spread, n, level)
    # It has no value for large differences, where the normal test given the estimated spread is averaged.
    over_spreads = stats.chi(n - 1, scale=1 / np.sqrt(n - 1)).expect(
        lambda s: stats.norm.cdf(shift - bound * s) + stats.norm.cdf(-shift - bound * s), limit=500
    )
    assert found == pytest.approx(over_spreads, abs=1e-6)
    assert np.isnan(of_statsmodels) or found == pytest.approx(of_statsmodels, abs=1e-7)


@pytest.mark.parametrize("n", [5, 12])
def test_the_difference_that_a_test_detects_has_the_power_that_it_is_planned_for(n):
    assert power(detectable_difference(n, 9.0, 0.4), n, 9.0, 0.4) == pytest.approx(0.8, abs=1e-6)


def test_with_many_images_effects_the_power_is_that_of_the_normal_test():
    """Where the images have nearly all of the variance, the degrees of freedom are so many that t is normal."""
    shift = 2.5
    expected = stats.norm.sf(stats.norm.ppf(0.975) - shift) + stats.norm.cdf(-stats.norm.ppf(0.975) - shift)
    assert power(shift, 5, 1e-6, 1.0) == pytest.approx(expected, abs=1e-4)
    assert power(shift, 5, 0.0, 1.0) == pytest.approx(expected)


@pytest.mark.statistical
@pytest.mark.parametrize(("of_seeds", "of_images"), [(1.0, 0.3), (2.0, 0.1), (0.4, 1.0)])
def test_the_power_is_how_often_drawn_comparisons_find_the_difference(of_seeds, of_images):
    generator = np.random.default_rng(3)
    seeds, images, noise, difference, drawn = 6, 150, 4.0, 1.9, 1500
    found = 0
    for _ in range(drawn):
        values = difference + generator.normal(0, np.sqrt(of_seeds), (seeds, 1))
        values = values + generator.normal(0, np.sqrt(of_images * images), (1, images))
        found += crossed_effects(values + generator.normal(0, noise, (seeds, images))).p < 0.05
    expected = power(difference, seeds, of_seeds + noise**2 / images, of_images)
    # Degrees of freedom are estimated in the test and known to the plan, which is off by a few points at most.
    assert found / drawn == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("of_images", [0.0, 0.01, 0.02])
@pytest.mark.parametrize("difference", [0.45, -0.6, 3.0])
def test_the_seeds_needed_are_the_fewest_that_do(difference, of_images):
    n = seeds_needed(difference, 1.0, of_images)
    assert power(difference, n, 1.0, of_images) >= 0.8
    assert n == 5 or power(difference, n - 1, 1.0, of_images) < 0.8


def test_no_number_of_seeds_does_where_the_images_are_too_few():
    images = images_needed(0.5, 0.1, 360)
    assert seeds_needed(0.5, 1.0, 0.1) is None
    assert seeds_needed(0.5, 1e-9, 0.1 * 360 / images) == 5
    assert seeds_needed(0.5, 1e-9, 0.1 * 360 / (images - 10), most=10**6) is None
    assert images_needed(0.5, 0.02, 360) is None
    assert images_needed(0.0, 0.1, 360) is None


def test_no_difference_and_no_spread_have_plans_too():
    assert seeds_needed(0.0, 1.0) is None
    assert power(0.0, 9, 1.0, 1.0) == pytest.approx(0.05)
    plan = seed_plan(crossed_effects(np.full((5, 4), 1.0)), 1.0)
    assert (plan.power, plan.needed, plan.fewest, plan.most, plan.images) == (1.0, 5, 5, 5, None)


def test_the_range_of_seeds_holds_the_number_and_is_wide_for_few_seeds():
    generator = np.random.default_rng(0)
    few, many = (seed_plan(crossed_effects(generator.normal(0, 1, (n, 50))), 0.15) for n in (5, 80))
    for plan in (few, many):
        assert plan.fewest <= plan.needed <= plan.most
    assert few.most / few.fewest > 2 * many.most / many.fewest


def table(correct):
    """Return runs as a table: an array (seeds, images), or accuracies (seeds,), for each arm."""
    rows = [
        {
            "arm": arm,
            "labels": 20,
            "seed": seed,
            "test_accuracy": np.mean(of_seed),
            "correct": of_seed if np.ndim(of_seed) else None,
        }
        for arm, of_arm in correct.items()
        for seed, of_seed in enumerate(of_arm)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_runs_are_paired_by_seed_with_their_predictions_or_without():
    generator = np.random.default_rng(1)
    arm, base = generator.random((6, 90)) < 0.8, generator.random((7, 90)) < 0.7
    kept = paired_effects(table({"a": arm, "b": base}), "a", "b")[20]
    assert kept == crossed_effects(arm.astype(float) - base[:6])
    without = paired_effects(table({"a": arm.mean(axis=1), "b": base.mean(axis=1)}), "a", "b")[20]
    assert (without.mean, without.seed_variance) == pytest.approx((kept.mean, kept.seed_variance))
    assert without.image_variance == 0
    by_t = stats.ttest_rel(arm.mean(axis=1), base[:6].mean(axis=1))
    assert without.p == pytest.approx(by_t.pvalue)
    assert paired_effects(table({"a": arm[:1], "b": base}), "a", "b") == {}


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 seconds"), (59, "59 seconds"), (90, "1.5 minutes"), (36_500, "10 hours")]
)
def test_durations_have_two_digits(seconds, words):
    assert duration(seconds) == words


COMPARED = [*SMALL_RUN, "labels=[20,40]", "seeds=[0,1,2]", "recipe.steps=2", "probe=true", "compute=[1,2]"]
COMPARED += ["~arms.random-frozen", "~arms.pretrained-frozen"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, configure):
    out = tmp_path_factory.mktemp("planned") / "run"
    run_comparison(configure("compare", f"out={out}", *COMPARED))
    return out


def seconds_by_kind(out, key, pattern):
    return [json.loads(file.read_text())[key] for file in out.glob(f"{pattern}/summary.json")]


@pytest.mark.integration
@pytest.mark.parametrize("hold", [[], ["pretraining"]])
def test_a_further_seed_costs_what_the_seeds_so_far_cost_on_average(tmp_path, configure, compared, hold):
    out = compared
    if hold:
        out = tmp_path / "held"
        run_comparison(configure("compare", f"out={out}", *COMPARED, "hold=[pretraining]"))
    results = read_results(out)
    spent = [("finetune_seconds", "runs/*/*/*"), ("probe_seconds", "probes/*/*/*")]
    spent += [] if hold else [("pretrain_seconds", "stages/*")]
    total = sum(sum(seconds_by_kind(out, *each)) for each in spent)
    assert results.further_seed_seconds == pytest.approx(total / 3, rel=1e-6)


@pytest.mark.integration
def test_a_report_on_an_unfinished_comparison_plans_with_what_is_there(tmp_path, configure, compared):
    out = tmp_path / "unfinished"
    shutil.copytree(compared, out)
    for file in out.glob("runs/*/labels-40*/seed-[12]/summary.json"):
        file.unlink()
    write_report(out)
    text = (out / "report.md").read_text()
    assert "## How many seeds" in text
    (line,) = [line for line in text.splitlines() if "of the" in line and "that are seen" in line]
    assert "20 labels" in line  # with 40 labels, one pair is too little for a spread
    for file in out.glob("runs/*/*/*/summary.json"):
        file.unlink()
    write_report(out)
    assert "How many seeds" not in (out / "report.md").read_text()


@pytest.mark.integration
def test_the_report_plans_for_the_difference_that_the_user_names(configure, compared):
    run_comparison(configure("compare", f"out={compared}", *COMPARED, "detect=30", "jobs=1"))
    results = read_results(compared)
    lines = how_many_seeds(results, [])
    assert sum("a difference of 30 points" in line for line in lines) == 2
    plans = seeds_as_json(results)["plans"]
    effects = paired_effects(results.runs, "pretrained", "scratch")
    for plan in plans:
        each = effects[plan["labels"]]
        assert plan["needed"] == seeds_needed(0.3, each.seed_variance, each.image_variance)
