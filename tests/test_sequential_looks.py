import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_RUN
from scipy import stats

from pretrain import UserError, run_comparison, write_report
from pretrain.comparison import workers
from pretrain.comparison.crossed_effects import crossed_effects
from pretrain.comparison.sequential_looks import ONE_LOOK, Looks, doubling_looks
from pretrain.comparison.stopping_rule import reached
from pretrain.pipelines import network_finetuning, stage_training
from pretrain.reporting.comparison_results import read_results

# Pocock (1977); Jennison and Turnbull (2000), table 2.1: two-sided 5%, for 2 to 5 looks after equal numbers each.
POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413}


@pytest.mark.parametrize(("most", "seeds"), [(5, (5,)), (6, (5, 6)), (20, (5, 10, 20)), (33, (5, 10, 20, 33))])
def test_looks_double_up_to_the_last(most, seeds):
    assert doubling_looks(most).seeds == seeds


@pytest.mark.statistical
@pytest.mark.parametrize("count", POCOCK)
def test_with_many_seeds_the_level_is_pococks(count):
    """Then t is normal. The simulation of the level has a standard error of about 0.04% of 5%, which is 0.004 of z."""
    level = Looks(tuple(2000 * (k + 1) for k in range(count))).level
    assert stats.norm.isf(level / 2) == pytest.approx(POCOCK[count], abs=0.015)


@pytest.mark.statistical
@pytest.mark.parametrize("most", [10, 40])
def test_without_a_difference_the_looks_together_find_one_in_5_of_100(most):
    looks, drawn = doubling_looks(most), 40_000
    x = np.random.default_rng(5).normal(size=(drawn, most))
    p = np.array([stats.ttest_1samp(x[:, :n], 0, axis=1).pvalue for n in looks.seeds])
    found = int((p.min(axis=0) < looks.level).sum())
    assert stats.binomtest(found, drawn, 0.05).pvalue > 1e-4
    assert (p.min(axis=0) < 0.05).mean() > 0.07  # as they are, p values find too many


def test_a_corrected_p_value_is_below_5_percent_where_the_interval_excludes_no_difference():
    looks = doubling_looks(20)
    for p in looks.level * np.array([0.5, 0.9999, 1.0]):
        assert looks.corrected(p) < 0.05
    assert looks.corrected(looks.level * 1.001) >= 0.05


def test_correction_keeps_the_order_and_lies_between_the_p_value_and_bonferronis_bound():
    looks = doubling_looks(40)
    p = np.concatenate([[0.0], np.geomspace(1e-12, 1.0, 200)])
    corrected = np.array([looks.corrected(each) for each in p])
    assert (np.diff(corrected) >= 0).all()
    assert (p <= corrected).all()
    assert (corrected <= np.minimum(4 * p, 1)).all()


def test_a_single_look_changes_nothing():
    assert (ONE_LOOK.level, ONE_LOOK.corrected(0.03)) == (0.05, 0.03)
    assert doubling_looks(5) == ONE_LOOK


@pytest.mark.statistical
def test_with_image_effects_that_all_looks_share_false_verdicts_are_fewer():
    looks, drawn, generator = doubling_looks(20), 1500, np.random.default_rng(2)
    found = 0
    for _ in range(drawn):
        values = generator.normal(0, 1, (20, 1)) + generator.normal(0, 6, (1, 60)) + generator.normal(0, 3, (20, 60))
        found += min(crossed_effects(values[:n]).p for n in looks.seeds) < looks.level
    assert found <= stats.binom.isf(1e-3, drawn, 0.05)


TINY = [*SMALL_RUN, "labels=[20]", "recipe.steps=2", "recipe.batch_size=8", "seeds=auto", "most_seeds=7"]
TINY += ["~arms.random-frozen", "~arms.pretrained-frozen"]
SMALL = [f"stack.stages.stage{k}.training.steps=1" for k in (1, 2)]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    for module in (network_finetuning, stage_training):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: None)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.05)


@pytest.fixture(scope="module")
def plan(configure):
    """Return a function that makes a tiny comparison with seeds=auto."""
    return lambda out, *more: configure("compare", f"out={out}", *TINY, *SMALL, *more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, plan):
    """Return the folder of a comparison that went on to its last look."""
    out = tmp_path_factory.mktemp("auto") / "whole"
    assert run_comparison(plan(out, "half_width=0.001")) == []
    write_report(out)
    return out


def seeds_of(out):
    """Return the seeds of the complete runs."""
    return {int(file.parent.name.removeprefix("seed-")) for file in out.glob("runs/*/*/*/summary.json")}


def accuracies(out):
    summaries = {
        file.parent.relative_to(out): json.loads(file.read_text()) for file in out.glob("runs/*/*/*/summary.json")
    }
    return {run: summary["test_accuracy"] for run, summary in summaries.items()}


@pytest.mark.integration
def test_it_ends_at_the_first_look_where_a_wide_interval_is_enough(tmp_path, plan):
    out = tmp_path / "run"
    assert run_comparison(plan(out, "half_width=100", "labels=[20,40]")) == []
    assert seeds_of(out) == {*range(5)}
    assert read_results(out).progress["runs"] == (2 * 2 * 5, 2 * 2 * 5)


@pytest.mark.integration
def test_it_goes_on_to_the_most_seeds_where_the_interval_stays_wide(whole):
    assert seeds_of(whole) == {*range(7)}
    results, values = read_results(whole), json.loads((whole / "results.json").read_text())
    assert results.comparison.seeds_in_use == [*range(7)]
    assert {row["n"] for row in values["comparisons"]} == {7}
    assert values["seeds"]["looks"] == [5, 7]
    text = (whole / "report.md").read_text()
    assert "this is look 2 of at most 2 (after 5, 7 seeds)" in text
    assert "Jennison and Turnbull 1989" in text
    assert "seeds: auto" in (whole / "config.yaml").read_text()


@pytest.mark.integration
def test_verdicts_allow_for_all_looks(whole):
    values, looks = json.loads((whole / "results.json").read_text()), doubling_looks(7)
    for row in values["comparisons"]:
        assert row["p_holm"] >= min(1, looks.corrected(row["p"])) - 1e-12
        half_width = (row["high"] - row["low"]) / 2
        assert values["seeds"]["nominal_level"] == looks.level
        assert half_width > 0


@pytest.mark.integration
@pytest.mark.parametrize("lost", ["seed-3", "seed-6"])
def test_it_is_resumed_to_the_same_result(tmp_path, plan, whole, lost):
    """Whether it was interrupted within the first look or after it."""
    out = tmp_path / "resumed"
    shutil.copytree(whole, out)
    gone = ["seed-5", "seed-6"] if lost == "seed-3" else []
    for name in {lost, *gone}:
        for folder in [*out.glob(f"runs/*/*/{name}"), *out.glob(f"stages/{name}")]:
            shutil.rmtree(folder)
    assert seeds_of(out) == {*range(7)} - {int(name[-1]) for name in {lost, *gone}}
    assert run_comparison(plan(out, "half_width=0.001")) == []
    assert accuracies(out) == accuracies(whole)


@pytest.mark.integration
def test_two_processes_decide_alike(tmp_path, plan, whole):
    out = tmp_path / "run"
    assert run_comparison(plan(out, "half_width=0.001", "jobs=2")) == []
    assert accuracies(out) == accuracies(whole)


@pytest.mark.integration
def test_seeds_that_were_run_stay_in_the_report_though_fewer_would_be_enough_now(plan, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    assert run_comparison(plan(out, "half_width=100")) == []
    assert read_results(out).comparison.seeds_in_use == [*range(7)]


@pytest.mark.integration
def test_a_look_with_a_failed_run_goes_on_and_one_without_any_pair_ends(tmp_path, plan):
    diverging = "stack.stages.stage2.training.learning_rate=1e30"
    out = tmp_path / "run"
    failures = run_comparison(plan(out, "half_width=0.001", diverging, "stack.stages.stage2.training.steps=6"))
    assert failures
    assert seeds_of(out) == {*range(5)}
    assert reached(plan(out), out).look == 0


@pytest.mark.integration
def test_the_rule_cannot_be_changed_once_results_may_have_been_seen(tmp_path, configure, plan, whole):
    with pytest.raises(UserError, match=r"holds a comparison with seeds=auto, .* With seeds=\[0, 1\] now, false"):
        run_comparison(replace(plan(whole), seeds=[0, 1]))
    with pytest.raises(UserError, match="most_seeds is 7 there and 40 here"):
        run_comparison(plan(whole, "most_seeds=40"))
    out = tmp_path / "listed"
    listed = [*(each for each in TINY if "seeds" not in each), *SMALL, "seeds=[0]"]
    assert run_comparison(configure("compare", f"out={out}", *listed)) == []
    with pytest.raises(UserError, match=r"holds a comparison with seeds=\[0\], .* With seeds=auto now"):
        run_comparison(plan(out))
    before = seeds_of(out)
    assert run_comparison(plan(out, "most_seeds=5", "overwrite=true")) == []
    assert (before, seeds_of(out)) == ({0}, {*range(5)})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("seeds=auto most_seeds=4", "most_seeds=4: it must be a whole number from 5 to 1000."),
        ("seeds=auto half_width=0", "half_width=0: it must be a number above 0 and at most 100."),
        ("seeds=automatic", "seeds=automatic: it must be a list of one or more without repeats, each a whole number"),
        ("seeds=auto baseline=pretrained", "seeds=auto needs a pretrained arm and a baseline that is not"),
        ("seeds=auto tuning.trials=1 tuning.seeds=[12]", "tuning.seeds and seeds share 12"),
        ("detect=0", "detect=0: it must be a number above 0 and at most 100, or null."),
        ("detect=a", "detect=a: it must be a number above 0"),
    ],
)
def test_a_wrong_setting_gets_one_line(tmp_path, run_here, overrides, message):
    result = run_here(tmp_path, "compare", *SMALL_RUN, "out=runs/x", *overrides.split())
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("override", ["most_seeds=30", "half_width=2"])
def test_a_setting_of_the_rule_without_the_rule_is_said_to_have_no_effect(tmp_path, run_here, override):
    result = run_here(tmp_path, "compare", *SMALL_RUN, "seeds=[0,1]", override, "out=runs/x", "dry_run=true")
    name = override.partition("=")[0]
    assert f"{name} has no effect with seeds=[0, 1]; it counts with auto" in result.stderr


@pytest.mark.integration
def test_a_dry_run_says_what_the_first_look_and_the_last_would_run(tmp_path, run_here):
    lines = run_here(tmp_path, "compare", *TINY, "out=runs/x", "dry_run=true").stdout.splitlines()
    assert lines[:2] == ["with the 5 seeds of the next look:", "would run 15 runs (15 missing)"]
    assert "with 7 seeds, at most: would run 21 runs (21 missing)" in lines
    assert lines[-1] == "dry run: nothing was run or written"
    assert [*tmp_path.iterdir()] == []
