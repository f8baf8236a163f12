import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from conftest import SMALL_RUN
from filelock import FileLock
from PIL import Image

from pretrain import Arm, RunFolder, UserError, run_comparison, write_report
from pretrain.comparison import workers
from pretrain.comparison.image_gallery import GALLERY
from pretrain.comparison.tasks import FinetuningTask, PretrainingTask, ProbingTask, runs_that_count, tasks
from pretrain.comparison.workers import Worker
from pretrain.evaluation.kept_predictions import read_predictions
from pretrain.pipelines import network_finetuning, stage_training
from pretrain.reporting.comparison_results import COLUMNS, read_results
from pretrain.runs.run_folder import run_lock

# Every test here runs a whole comparison or reads one.
pytestmark = pytest.mark.integration

SMALL_COMPARISON = [
    "labels=[20,40]",
    "seeds=[0,1]",
    "recipe.steps=6",
    "recipe.batch_size=16",
    "recipe.evaluate_every=3",
]


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """Keep runs from saving pictures, which take half of the time and are tested with single runs."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (network_finetuning, stage_training):
            patch.setattr(module, "save_figure", lambda figure, path: None)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory, configure):
    folder = tmp_path_factory.mktemp("comparison") / "run"
    run_comparison(configure("compare", f"out={folder}", *SMALL_COMPARISON))
    write_report(folder)
    return folder


def summaries(out):
    return {file: file.stat().st_mtime_ns for file in out.glob("runs/*/*/*/summary.json")}


def test_each_arm_budget_and_seed_has_a_run_and_a_row_in_the_table(out, configure):
    grid = list(runs_that_count(configure("compare", "out=x", *SMALL_COMPARISON)))
    assert len(grid) == 4 * 2 * 2 == len(summaries(out))
    results = pd.read_csv(out / "results.csv")
    assert tuple(results.columns) == COLUMNS
    assert {(c.arm, c.labels, c.seed) for c in grid} == set(results[["arm", "labels", "seed"]].itertuples(index=False))


def test_the_rows_of_the_table_agree_with_the_summaries_of_the_runs(out):
    results = pd.read_csv(out / "results.csv").set_index(["arm", "labels", "seed"])
    for file in summaries(out):
        summary = json.loads(file.read_text())
        row = results.loc[summary["arm"], summary["labels"], summary["seed"]]
        assert row.test_accuracy == summary["test_accuracy"]
        assert (row.pretrain_seconds > 0) == summary["arm"].startswith("pretrained")


def test_a_second_call_runs_only_what_is_missing(out, configure):
    before = summaries(out)
    victim = out / "runs" / "pretrained" / "labels-40" / "seed-1"
    values = json.loads((victim / "summary.json").read_text())
    (victim / "summary.json").unlink()
    run_comparison(configure("compare", f"out={out}", *SMALL_COMPARISON))
    after = summaries(out)
    assert [file for file in after if after[file] != before[file]] == [victim / "summary.json"]
    again = json.loads((victim / "summary.json").read_text())
    assert again["test_accuracy"] == values["test_accuracy"]


def test_the_runs_differ_only_in_arm_labels_and_seed(out):
    runs = [RunFolder(file.parent).config() for file in summaries(out)]
    for run in runs:
        for key in ("arm", "init", "stages", "stages_digest", "out", "labels", "seed"):
            run.pop(key)
        run["recipe"].pop("freeze")
    assert all(run == runs[0] for run in runs)


def test_failed_runs_are_named_and_do_not_stop_the_others(tmp_path, configure):
    diverging = "stack.stages.stage2.training.learning_rate=1e30"
    config = configure("compare", f"out={tmp_path / 'run'}", *SMALL_COMPARISON, "labels=[20]", "seeds=[0]", diverging)
    failures = run_comparison(config)
    assert [line.split(",")[0] for line in failures] == ["pretraining", "pretrained", "pretrained-frozen"]
    assert all(re.search(r"stage 2, step \d+ .*: not a finite number any more", line) for line in failures)
    assert len(summaries(tmp_path / "run")) == 2
    assert len(list(tmp_path.glob("run/runs/*/*/*/failure.txt"))) == 2
    assert run_comparison(config) == failures


def test_a_comparison_whose_images_changed_is_refused_and_keeps_its_runs(tmp_path, configure):
    root = tmp_path / "photos"
    for split, name, k in itertools.product(("train", "test"), ("dark", "light"), range(6)):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        value = 40 * k + 20 * (name == "light") + 5 * (split == "test")
        Image.new("L", (8, 8), value).save(root / split / name / f"{k}.png")
    data = ["data=folder", f"data.root={root}", "data.image_size=8", "data.channels=1", "data.cache=null"]
    data.append("stack=cae_small")
    options = [f"out={tmp_path / 'run'}", *data, *SMALL_COMPARISON, "labels=[4]", "seeds=[0]", "recipe.crop=1"]
    assert run_comparison(configure("compare", *options)) == []
    before = summaries(tmp_path / "run")
    Image.new("L", (8, 8), 255).save(root / "train" / "light" / "new.png")
    with pytest.raises(UserError, match=r"the images to learn from.* are not the same"):
        run_comparison(configure("compare", *options))
    assert summaries(tmp_path / "run") == before
    assert not list(tmp_path.glob("run/runs/*/*/*/failure.txt"))


def test_an_arm_may_be_added_but_not_changed(out, configure):
    before = summaries(out)
    with pytest.raises(UserError, match=r"arms\.pretrained\.recipe\.dropout is not set there and 0\.1 here"):
        run_comparison(configure("compare", f"out={out}", *SMALL_COMPARISON, "+arms.pretrained.recipe.dropout=0.1"))
    options = ["+arms.gentle={init: pretrained, recipe: {learning_rate: 0.001}}", "labels=[20]", "seeds=[0]"]
    run_comparison(configure("compare", f"out={out}", *SMALL_COMPARISON, *options))
    added = out / "runs" / "gentle" / "labels-20" / "seed-0" / "summary.json"
    assert {file: time for file, time in summaries(out).items() if file != added} == before
    assert RunFolder(added.parent).config()["recipe"]["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("baseline=nobody", "baseline=nobody is not known; choose one of scratch, pretrained"),
        ("seeds=3", "seeds=3: it must be a list of one or more"),
        ("labels=[]", "list"),
        ("labels=[1000,all]", "1000 is the same budget as all"),
        ("labels=[20,5000]", "give a number from 10"),
        ("seeds=[0,1.5]", "it must be a list of one or more without repeats, each a whole number"),
        ("recipe.optimizer=sdg", "choose one of sgd, adamw"),
        ("+arms.pretrained.labels=50", "arms.pretrained.labels cannot differ"),
        ("arms.scratch.init=nothing", "choose one of scratch, pretrained"),
        ("+arms.scratch.upto=1", "arms.scratch.upto is for pretrained arms"),
        ("+arms.scratch.num_unlabelled=10", "arms.scratch.num_unlabelled is for pretrained arms"),
        ("+arms.scratch.stack={name:x}", "arms.scratch.stack is for pretrained arms"),
        ("+arms.pretrained.stack={depth:3}", "arms.pretrained.stack.depth: there is no such setting"),
        (
            "+arms.pretrained.stack={stages:{stage2:{layer:{kernel_size:5}}}}",
            "arms.pretrained.stack changes the network, which all arms share: "
            "stage2.kernel_size is 5, not 3; stage2.padding is 2, not 1",
        ),
        ("+arms.pretrained.stack={normalization:none}", "normalization is none, not scale"),
        ("+arms.pretrained.stack={stages:{stage2:{loss:x}}}", "arms.pretrained.stack.stages.stage2.loss: there is no"),
        ("+arms.pretrained.compute_matched=true", "arms.pretrained.compute_matched is for arms from scratch"),
        (
            "~arms.pretrained ~arms.pretrained-frozen +arms.scratch.compute_matched=true",
            "arms.scratch.compute_matched: no arm is",
        ),
        ("+arms.pretrained.recipe.drop_out=0", "arms.pretrained.recipe.drop_out: .*did you mean dropout?"),
        ("recipe.head=ridge data.validation=0", "recipe.head needs validation images"),
        ("+arms.pretrained.recipe.head_steps=1000", "arms.pretrained.recipe.head_steps=1000"),
        ("recipe.layer_rates=[0.1]", r"recipe\.layer_rates=\[0\.1\]: there are 2 layers"),
        ("+arms.pretrained.recipe.crop=8", r"arms\.pretrained\.recipe\.crop=8"),
        ("tuning.seeds=[0] tuning.trials=1", "tuning.seeds and seeds share 0"),
        ("compute=[1,0.001]", r"compute=0\.001: runs would have steps=0: nothing would learn"),
        ("compute=[1,1.0001]", r"compute=1 and 1\.0001 are equally many steps for steps=300; leave one out"),
        ("compute=[1,4] arms=frozen", "no arm has steps to multiply"),
        ("jobs=0", "jobs=0: it must be a whole number from 1"),
        ("compute=[4,16]", r"compute=\[4\.0, 16\.0\]: verdicts rest on the recipe's own steps, so give 1 as well"),
        ("compute=[1,0]", r"compute=\[1, 0\]: it must be .* above 0"),
        ("compute=4", "compute=4: it must be a list"),
        ("compute=[1,0.1] recipe.steps=4", r"compute=0\.1: runs would have steps=0: nothing would learn"),
        ("hold=[labels,labels]", "hold=.*without repeats"),
        (
            "hold=[label]",
            "choose from labels, weights, order, pretraining|each labels or weights or order or pretraining",
        ),
        ("hold=[labels,weights,order]", "every seed would give the same run from scratch; leave out one draw"),
        ("hold=[weights,order] labels=[all]", "every seed would give the same run from scratch"),
        ("shared_by=0", "shared_by=0: it must be a whole number at least 1"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, configure, override, message):
    with pytest.raises(UserError, match=message):
        run_comparison(configure("compare", f"out={tmp_path / 'run'}", *override.split()))
    assert not (tmp_path / "run").exists()


def test_without_trials_their_seeds_may_be_those_of_the_runs(tmp_path, configure):
    config = configure("compare", f"out={tmp_path / 'run'}", "seeds=[1000]")
    assert config.tuning.seeds == config.seeds
    assert {task.seed for task in Worker(config, started=0.0).needs} == {1000}


def test_a_setting_that_cannot_be_tuned_is_named(tmp_path, configure):
    tuning = ["tuning.trials=1", "+tuning.space.learning_rat=[0.1]"]
    with pytest.raises(UserError, match=r"tuning.space.learning_rat: there is no"):
        run_comparison(configure("compare", f"out={tmp_path / 'run'}", *tuning))
    assert not (tmp_path / "run").exists()


TUNED = [
    *("labels=[20]", "seeds=[0,1]", "tuning.trials=3", "tuning.seeds=[7]", "recipe.batch_size=16"),
    *("recipe.steps=6", "recipe.evaluate_every=3"),
    *("+tuning.space.learning_rate=[0.001,0.1]", "+tuning.space.weight_decay=[0.0,0.1]", "probe=true"),
    "recipe.head_steps=2",
    *("~arms.pretrained-frozen", "~arms.random-frozen", "+arms.scratch-matched={compute_matched: true}"),
    *("+arms.pretrained-1={init: pretrained, upto: 1}", "+arms.unlabelled-50={init: pretrained, num_unlabelled: 50}"),
]


class Sealed:
    """A test split that counts how often it is opened."""

    def __init__(self, monkeypatch):
        self.opened = 0
        load = workers.load_data
        monkeypatch.setattr(workers, "load_data", lambda *args: self.seal(load(*args)))

    def seal(self, data):
        def open_test():
            self.opened += 1
            return data.open_test()

        return dataclasses.replace(data, open_test=open_test)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, configure):
    """Return the folder of a tuned comparison, and how often it opened the test split."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        sealed = Sealed(monkeypatch)
        assert run_comparison(configure("compare", f"out={folder}", *TUNED)) == []
    write_report(folder)
    return folder, sealed.opened


def test_a_refused_trial_does_not_count_in_the_choice(tmp_path, configure):
    config = configure("compare", f"out={tmp_path}", *TUNED)
    cell = FinetuningTask("scratch", 20, 0)
    for accuracy, trial in zip((0.9, 0.5, 0.4), cell.trials(config), strict=True):
        trial.folder(tmp_path).mkdir(parents=True)
        RunFolder(trial.folder(tmp_path)).write_summary({"val_accuracy": accuracy})
    assert cell.winner(config) == 0
    (cell.trials(config)[0].folder(tmp_path) / "failure.txt").write_text("it has other settings\n")
    assert cell.winner(config) == 1


def test_an_arm_whose_recipes_are_equivalent_has_no_trials_and_runs_with_the_first(tmp_path, configure):
    """A fitted head on frozen layers does not depend on learning rates, but it does depend on mirror images."""
    frozen = "{recipe: {freeze: true, head: ridge, steps: 0}}"
    config = configure("compare", f"out={tmp_path}", *TUNED, f"+arms.fitted={frozen}")
    fitted, scratch = FinetuningTask("fitted", 20, 0), FinetuningTask("scratch", 20, 0)
    first, *others = config.tuning.candidates()
    assert (len(fitted.trials(config)), len(scratch.trials(config))) == (0, 1 + len(others))
    assert first.items() <= vars(fitted.settings(config).recipe).items()
    flipped = configure(
        "compare", f"out={tmp_path}", *TUNED, f"+arms.fitted={frozen}", "+tuning.space.flip=[true,false]"
    )
    assert len(fitted.trials(flipped)) == 3


def run_of(out, arm, seed=0):
    return RunFolder(out / "runs" / arm / "labels-20" / f"seed-{seed}")


def test_each_run_that_counts_opens_the_test_split_once_and_no_trial_does(tuned):
    out, opened = tuned
    runs = [json.loads(file.read_text()) for file in out.glob("runs/*/*/*/summary.json")]
    trials = [json.loads(file.read_text()) for file in out.glob("trials/*/*/*/*/summary.json")]
    probes = list(out.glob("probes/*/*/*/summary.json"))
    assert (len(runs), len(trials), len(probes)) == (5 * 2, 5 * 3, 2 * 2)
    # Once every run has ended, the comparison copies the images that its report shows.
    assert (out / GALLERY).exists()
    assert opened == len(runs) + len(probes) + 1
    assert all(trial["test_accuracy"] is None and "confusion" not in trial for trial in trials)


def test_trials_succeed_where_the_test_split_is_broken(tmp_path, configure, monkeypatch):
    """All trials run before anything opens the test split, so a broken one stops none of them."""
    load = workers.load_data

    def broken():
        raise UserError("the test split was opened")

    monkeypatch.setattr(workers, "load_data", lambda *args: dataclasses.replace(load(*args), open_test=broken))
    out = tmp_path / "run"
    failures = run_comparison(configure("compare", f"out={out}", *TUNED, "probe=false", "seeds=[0]"))
    assert len(failures) == 5
    assert all("the test split was opened" in line for line in failures)
    assert len(list(out.glob("trials/*/*/*/*/summary.json"))) == 15


def test_every_arm_tries_the_same_settings_and_runs_with_the_best_on_validation_images(tuned, configure):
    out, _ = tuned
    config = configure("compare", f"out={out}", *TUNED)
    tried = {}
    for file in out.glob("trials/*/*/*/*/summary.json"):
        run = RunFolder(file.parent)
        settings = {key: run.config()["recipe"][key] for key in ("learning_rate", "weight_decay")}
        arm, trial = run.config()["arm"], int(file.parts[-5].removeprefix("trial-"))
        assert run.config()["seed"] == 7
        tried.setdefault(arm, {})[trial] = (settings, run.summary()["val_accuracy"])
    assert len(tried) == 5
    for arm, trials in tried.items():
        assert [trials[k][0] for k in sorted(trials)] == config.tuning.candidates()
        best = max(accuracy for _, accuracy in trials.values())
        first = next(settings for _, (settings, accuracy) in sorted(trials.items()) if accuracy == best)
        for seed in (0, 1):
            chosen = run_of(out, arm, seed).config()["recipe"]
            assert {key: chosen[key] for key in first} == first


def test_a_compute_matched_arm_spends_as_much_as_pretraining_and_fine_tuning_together(tuned):
    out, _ = tuned
    matched, pretrained = (run_of(out, arm).summary() for arm in ("scratch-matched", "pretrained"))
    spent = RunFolder(PretrainingTask(0).folder(out)).summary()["stage_flops"]
    assert (pretrained["pretrain_flops"], matched["pretrain_flops"]) == (sum(spent), 0)
    total = pretrained["pretrain_flops"] + pretrained["finetune_flops"]
    extra = matched["steps"] - pretrained["steps"]
    assert extra > 0
    # The head alone learns in none of the extra steps.
    step = (matched["finetune_flops"] - pretrained["finetune_flops"]) / extra
    assert abs(matched["finetune_flops"] - total) <= step / 2


def test_arms_with_fewer_layers_or_images_are_charged_for_these_alone(tuned):
    out, _ = tuned
    first, whole = (RunFolder(out / "runs" / arm / "labels-20" / "seed-0") for arm in ("pretrained-1", "pretrained"))
    stages = RunFolder(PretrainingTask(0).folder(out)).summary()
    assert first.summary()["pretrain_flops"] == stages["stage_flops"][0]
    assert whole.summary()["pretrain_flops"] == sum(stages["stage_flops"])
    assert first.summary()["pretrain_seconds"] == pytest.approx(stages["stage_seconds"][0], abs=1e-3)
    assert RunFolder(PretrainingTask(0, 50).folder(out)).summary()["unlabelled"] == 50


NOISY = "stages: {stage1: {corruption: gaussian}, stage2: {training: {steps: 3}}}"
CENTROIDS = {
    "_target_": "pretrain.KMeans",
    "layer": {"out_channels": 6},
    "training": {"steps": 4, "optimizer": "sgd"},
}


def test_an_arm_with_other_stages_equals_the_pretrained_arm_of_a_comparison_with_those_stages(tmp_path, configure):
    one = ["labels=[20]", "seeds=[0]", "recipe.steps=6", "~arms.pretrained-frozen", "~arms.random-frozen"]
    arms = [f"+arms.{name}={{init: pretrained, stack: {{{NOISY}}}}}" for name in ("noisy", "alike")]
    together, alone = tmp_path / "together", tmp_path / "alone"
    config = configure("compare", f"out={together}", *one, *arms)
    centroids = Arm("pretrained", stack={"stages": {"stage1": CENTROIDS}})
    config = dataclasses.replace(config, arms={**config.arms, "centroids": centroids})
    assert run_comparison(config) == []
    noisy = ["stack.stages.stage1.corruption=gaussian", "stack.stages.stage2.training.steps=3"]
    assert run_comparison(configure("compare", f"out={alone}", *one, *noisy)) == []
    for arm, same in (("scratch", "scratch"), ("noisy", "pretrained"), ("alike", "pretrained")):
        ours, theirs = run_of(together, arm).summary(), run_of(alone, same).summary()
        for key in ("val_accuracy", "test_accuracy", "pretrain_flops", "confusion"):
            assert ours[key] == theirs[key]
    assert {file.name for file in (together / "stages").iterdir()} == {"seed-0", "of-noisy", "of-centroids"}
    stages = RunFolder(together / "stages" / "of-centroids" / "seed-0").config()["stack"]["stages"]
    assert stages == {**config.stack.stages, "stage1": CENTROIDS}
    write_report(together)
    report = (together / "report.md").read_text()
    assert "Pretraining of noisy differs: Stage 1 has corruption=gaussian. Stage 2 has training.steps=3." in report
    assert "Pretraining of centroids differs: Stage 1: spherical k-means on whitened patches, 6 maps" in report


def predictions_of(out, arm, compute="", seed=0):
    return read_predictions(RunFolder(out / "runs" / arm / f"labels-20{compute}" / f"seed-{seed}")).probabilities


def test_more_compute_is_a_run_of_its_own_with_the_whole_schedule_stretched(tmp_path, out, configure):
    """The run with 2 times the steps is the run of a comparison whose recipe has them; that with 1 is as before."""
    frozen = "+arms.fitted={recipe: {freeze: true, head: ridge, steps: 0}}"
    settings = ["labels=[20]", *SMALL_COMPARISON[1:], frozen]
    run_comparison(configure("compare", f"out={tmp_path / 'both'}", *settings, "compute=[1,2]"))
    longer = ["recipe.steps=12", "recipe.evaluate_every=6"]
    run_comparison(configure("compare", f"out={tmp_path / 'longer'}", *settings[:2], *settings[3:], *longer))
    for arm in ("scratch", "pretrained"):
        twice = predictions_of(tmp_path / "both", arm, "-compute-2")
        assert (twice == predictions_of(tmp_path / "longer", arm)).all()
        assert (predictions_of(tmp_path / "both", arm) == predictions_of(out, arm)).all()
        assert (twice != predictions_of(out, arm)).any()
    results = read_results(tmp_path / "both")
    multiples = results.runs_by_compute.groupby("arm")["compute"].unique().map(sorted)
    assert multiples["scratch"] == multiples["pretrained-frozen"] == [1, 2]
    # A head that is fitted at once has no steps to multiply.
    assert multiples["fitted"] == [1]
    assert set(results.runs["compute"]) == {1}
    assert set(results.curves["step"]) <= {0, 3, 6}


def test_more_compute_may_be_asked_for_later_and_costs_no_run_again(tmp_path, configure):
    settings = [f"out={tmp_path / 'run'}", "labels=[20]", *SMALL_COMPARISON[1:]]
    run_comparison(configure("compare", *settings))
    before = summaries(tmp_path / "run")
    run_comparison(configure("compare", *settings, "compute=[1,2]"))
    assert before.items() < summaries(tmp_path / "run").items()


def test_trials_and_matched_runs_have_the_steps_of_the_recipe_whatever_the_compute(configure):
    config = configure("compare", "out=x", *TUNED, "compute=[1,4]")
    assert config.multiples("scratch") == [1, 4]
    assert config.multiples("scratch-matched") == [1]
    longer = FinetuningTask("scratch", 20, 0, compute=4.0)
    assert longer.trials(config) == FinetuningTask("scratch", 20, 0).trials(config)
    assert {trial.compute for trial in longer.trials(config)} == {1}


@pytest.mark.parametrize("held", ["labels", "weights", "order", "pretraining"])
def test_a_held_draw_is_that_of_the_first_seed_in_every_run(tmp_path, configure, held):
    """The second seed, with one draw held, is the run of that seed with this draw of the first."""
    settings = ["labels=[20]", "seeds=[3,5]", *SMALL_COMPARISON[2:], "~arms.pretrained-frozen", "~arms.random-frozen"]
    run_comparison(configure("compare", f"out={tmp_path / 'held'}", *settings, f"hold=[{held}]"))
    run_comparison(configure("compare", f"out={tmp_path / 'free'}", *settings))
    for arm in ("scratch", "pretrained"):
        first, second = (predictions_of(tmp_path / "held", arm, seed=seed) for seed in (3, 5))
        assert (first == predictions_of(tmp_path / "free", arm, seed=3)).all()
        assert (first != second).any()
        changed = (second != predictions_of(tmp_path / "free", arm, seed=5)).any()
        assert changed == (arm == "pretrained" or held != "pretraining")
    stages = {folder.name for folder in (tmp_path / "held" / "stages").iterdir()}
    assert stages == ({"seed-3"} if held == "pretraining" else {"seed-3", "seed-5"})


def test_probes_hold_what_the_runs_hold(configure):
    config = configure("compare", "out=x", "probe=true", "seeds=[3,5]", "hold=[labels,pretraining]")
    probe = ProbingTask("pretrained", 20, 5).settings(config)
    assert (probe.seed, probe.seed_of_labels, probe.seed_of_weights) == (5, 3, 5)
    assert probe.stages == "x/stages/seed-3"


def test_trials_share_no_draw_with_the_runs_whatever_is_held(configure):
    config = configure("compare", "out=x", *TUNED, "hold=[labels,pretraining]")
    trial = FinetuningTask("pretrained", 20, 0).trials(config)[0]
    assert trial.settings(config).seed_of_labels == 7
    assert trial.needs(config) == [PretrainingTask(7)]


def test_two_processes_give_the_same_bits_as_one(tmp_path, tuned, configure):
    run_comparison(configure("compare", f"out={tmp_path / 'run'}", *TUNED, "jobs=2", "device.precision=auto"))
    write_report(tmp_path / "run")
    columns = ["arm", "labels", "seed", "val_accuracy", "test_accuracy", "pretrain_flops", "finetune_flops", "steps"]
    one, two = (pd.read_csv(out / "results.csv")[columns] for out in (tuned[0], tmp_path / "run"))
    pd.testing.assert_frame_equal(one, two)


def test_a_task_that_another_process_runs_is_left_to_it(tmp_path, configure, monkeypatch):
    config = configure("compare", f"out={tmp_path / 'run'}", *SMALL_COMPARISON, "labels=[20]", "seeds=[0]")
    worker = Worker(config, started=0.0)
    first = next(iter(tasks(config)))
    folder = first.folder(tmp_path / "run")
    folder.mkdir(parents=True)
    # A lock that is not the process's own, as another process would hold it.
    held = FileLock(run_lock(folder).lock_file)
    held.acquire()

    def wait(_):
        """Release the lock once this worker can only wait for the other process."""
        assert first not in worker.settled
        assert [file.name for file in folder.iterdir()] == [".lock"]
        held.release()

    monkeypatch.setattr("pretrain.comparison.workers.time.sleep", wait)
    assert worker.run() == []
    assert worker.settled[first] is None


def test_an_interrupted_comparison_is_completed_by_a_second_call(tmp_path, tuned, configure, monkeypatch):
    out = tmp_path / "run"
    config = configure("compare", f"out={out}", *TUNED)
    run_finetune, calls = workers.run_finetune, itertools.count()

    def interrupted(*args, **options):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return run_finetune(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "run_finetune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_comparison(config)
    done = {file: file.stat().st_mtime_ns for file in out.rglob("summary.json")}
    assert done
    assert run_comparison(config) == []
    write_report(out)
    assert {file: file.stat().st_mtime_ns for file in done} == done
    drop = ["pretrain_seconds", "finetune_seconds", "images_per_second"]
    one, two = (pd.read_csv(folder / "results.csv").drop(columns=drop) for folder in (tuned[0], out))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.integration
def test_the_hash_seed_and_the_number_of_processes_change_no_result(tmp_path):
    small = [*SMALL_RUN, *SMALL_COMPARISON]
    for name, seed, jobs in (("one", "0", 1), ("other", "1", 1), ("both", "2", 2)):
        command = [sys.executable, "-m", "pretrain.compare", *small, f"jobs={jobs}", f"out={tmp_path / name}"]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True)
    timed = ["pretrain_seconds", "finetune_seconds", "images_per_second"]
    tables = [pd.read_csv(tmp_path / name / "results.csv").drop(columns=timed) for name in ("one", "other", "both")]
    assert len(tables[0]) == 16
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])


def test_a_run_that_lacks_memory_does_not_stop_the_others(tmp_path, configure, monkeypatch):
    config = configure("compare", f"out={tmp_path / 'run'}", *SMALL_COMPARISON, "labels=[20]", "seeds=[0]")
    run_finetune = workers.run_finetune

    def greedy(settings, *args, **options):
        if settings.arm == "scratch":
            raise MemoryError("the run needs more")
        return run_finetune(settings, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "run_finetune", greedy)
        (failure,) = run_comparison(config)
    assert failure.startswith("scratch, 20 labels, seed 0: memory ran out: give a smaller batch_size")
    write_report(config.out)
    assert "memory ran out: give a smaller" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert run_comparison(config) == []


def test_a_comparison_whose_folder_vanishes_ends_and_is_not_made_again(tmp_path, configure, monkeypatch):
    config = configure("compare", f"out={tmp_path / 'run'}", *SMALL_COMPARISON, "labels=[20]", "seeds=[0]")
    run_finetune = workers.run_finetune

    def moved(*args, **options):
        summary = run_finetune(*args, **options)
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        return summary

    monkeypatch.setattr(workers, "run_finetune", moved)
    with pytest.raises(UserError, match="run was moved or deleted"):
        run_comparison(config)
    assert not (tmp_path / "run").exists()


def test_a_failure_dated_in_the_future_is_tried_again(tmp_path, configure):
    config = configure("compare", f"out={tmp_path / 'run'}", *SMALL_COMPARISON, "labels=[20]", "seeds=[0]")
    note = FinetuningTask("scratch", 20, 0).folder(tmp_path / "run") / "failure.txt"
    Worker(config)
    note.parent.mkdir(parents=True)
    note.write_text("a clock was wrong\n")
    os.utime(note, (2**33, 2**33))
    assert run_comparison(config) == []
    assert not note.exists()
