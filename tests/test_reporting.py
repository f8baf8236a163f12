"""Reports of comparisons with known numbers: the tests write the runs themselves instead of training them."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from pretrain import Comparison, RunFolder, UserError, write_report, write_side_by_side
from pretrain.comparison.tasks import FinetuningTask, PretrainingTask, tasks
from pretrain.comparison.verdicts import compare_arms
from pretrain.data.leakage_check import Count, Leakage
from pretrain.reporting.caveats import caveats
from pretrain.reporting.comparison_figures import over_labels, panels
from pretrain.reporting.comparison_results import COLUMNS, read_results
from pretrain.reporting.markdown_text import code_block
from pretrain.reporting.methods_text import methods
from pretrain.reporting.plotting import TEXT_HEIGHT, Row, apart, panel, rows, styles
from pretrain.reporting.side_by_side import unique_names, welch
from pretrain.runs.sealed_files import read_json, write_json
from pretrain.runs.tensor_files import save_state
from pretrain.runs.typed_settings import as_config

# Most tests here write a whole comparison and its report.
pytestmark = pytest.mark.integration

BUDGETS, SEEDS = (20, 50, 200), (0, 1, 2, 3, 4)
GAIN = {"pretrained": 0.04, "pretrained-1": 0.02, "unlabelled-100": 0.01, "scratch-matched": 0.04}
FROZEN = {"pretrained-frozen": -0.2, "random-frozen": -0.3}
ALL = [
    *("labels=[20,50,200]", "seeds=[0,1,2,3,4]", "probe=true", "tuning=sgd"),
    *("+arms.scratch-matched={compute_matched: true}", "+arms.pretrained-1={init: pretrained, upto: 1}"),
    "+arms.unlabelled-100={init: pretrained, num_unlabelled: 100}",
]


def accuracy(cell):
    """Return the accuracy of a run, which depends on its labels, arm and seed, with some noise of its own."""
    own = np.random.default_rng([cell.seed, cell.labels, sum(map(ord, cell.arm))]).normal(0, 0.004)
    gain = {**GAIN, **FROZEN}.get(cell.arm, 0.0)
    return round(0.5 + 0.1 * np.log10(cell.labels) + gain + 0.02 * (cell.seed % 3) + own, 4)


def write_run(folder, cell, comparison):
    """Write the files of a run or a trial."""
    pretrained, trial = cell.arm.startswith(("pretrained", "unlabelled")), cell.trial is not None
    measured = accuracy(cell) - 0.01 * (cell.trial or 0) + 0.02 * np.log2(cell.compute)
    values = {
        **{"arm": cell.arm, "init": "pretrained" if pretrained else "scratch", "stack": comparison.stack.name},
        **{"labels": cell.labels, "seed": cell.seed, "val_accuracy": measured - 0.02},
        **{"test_accuracy": None if trial else measured, "pretrain_seconds": 90.0 * pretrained},
        **{"finetune_seconds": 120.0 * cell.compute, "pretrain_flops": 16e9 * pretrained},
        "finetune_flops": 4e9 * cell.compute,
        **{"images_per_second": 1000.0, "steps": 300, "parameters": 9},
        **({} if trial else {"confusion": [[20, 5], [5, 20]]}),
    }
    for step in (100, 200, 300):
        RunFolder(folder).log(
            {"phase": "finetune", "step": step, "seconds": 0.4 * step, "val_accuracy": measured - 2 / step}
        )
    RunFolder(folder).write_summary(values)


def write_task(task, comparison, out):
    folder = task.folder(out)
    folder.mkdir(parents=True)
    if isinstance(task, FinetuningTask):
        write_run(folder, task, comparison)
    elif isinstance(task, PretrainingTask):
        Image.new("L", (4, 4)).save(folder / "stage1-filters.png")
        cost = {"pretrain_seconds": 90.0, "stage_flops": [1e9, 15e9]}
        RunFolder(folder).write_summary({"unlabelled": task.num_unlabelled or 1000, **cost})
    else:
        gain = 0.1 if task.init == "pretrained" else 0.0
        scores = [0.5 + depth * gain + 0.01 * task.seed for depth in range(3)]
        depths = [
            {"depth": k, "features": 9, "C": 1.0, "val_accuracy": score, "test_accuracy": score}
            for k, score in enumerate(scores)
        ]
        RunFolder(folder).write_summary({"labels": task.labels, "depths": depths})


@pytest.fixture(scope="module")
def make(configure):
    """Return a function that writes the folder of a comparison, with the tasks that `keep` selects."""

    def write(out, *options, keep=lambda task: True, renamed=lambda arm: arm):
        comparison = configure("compare", f"out={out}", *(options or ALL))
        arms = {renamed(name): arm for name, arm in comparison.arms.items()}
        comparison = replace(comparison, arms=arms, baseline=renamed(comparison.baseline))
        config = as_config(comparison) | {"data_digest": "0", "labelled_digest": "0"}
        out.mkdir(parents=True)
        (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (out / "env.json").write_text(
            json.dumps({"command": "python -m pretrain.compare", "torch": "2", "products": Comparison.products})
        )
        for task in filter(keep, tasks(comparison)):
            write_task(task, comparison, out)
        return out

    return write


@pytest.fixture(scope="module")
def out(tmp_path_factory, make):
    folder = make(tmp_path_factory.mktemp("made") / "run")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def default_methods(tmp_path_factory, make):
    return methods(read_results(make(tmp_path_factory.mktemp("usual") / "run", keep=lambda task: False)))


def page_of(out):
    return (out / "report.html").read_text()


def text_of(out):
    return (out / "report.md").read_text()


def test_the_page_agrees_with_the_statistics(out):
    results = pd.read_csv(out / "results.csv")
    assert tuple(results.columns) == COLUMNS
    assert len(results) == 7 * len(BUDGETS) * len(SEEDS)
    comparisons = compare_arms(results, "scratch")
    assert len(comparisons) == 6 * len(BUDGETS)
    stored = json.loads((out / "results.json").read_text())["comparisons"]
    for c, row in zip(comparisons, stored, strict=True):
        assert row["mean"] == pytest.approx(c.difference.mean)
        cells = [c.arm, c.labels, c.difference.n, f"{100 * c.difference.mean:+.2f}"]
        cells.append(f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}")
        cells += [f"{c.p:.2g}", f"{c.p_corrected:.2g}", f"{c.effect:+.2f}", f"{100 * c.detectable:.2f}", c.verdict]
        assert f"| {' | '.join(map(str, cells))} |" in text_of(out)
        assert all(f">{cell}</td>" in page_of(out) for cell in cells)
        assert c.sentence() in page_of(out)


def keep_predictions_of(out, *arms, images="0"):
    """Let the runs of arms keep predictions for 50 images, as many right as their accuracy says, and shift the rest.

    Every run of an arm misses the same images first, so the images matter, and other arms miss other images.
    """
    for k, arm in enumerate(arms):
        for file in out.glob(f"runs/{arm}/*/*/summary.json"):
            folder = RunFolder(file.parent)
            right = round(50 * folder.summary()["test_accuracy"])
            labels, predicted = torch.zeros(50, dtype=torch.int32), torch.ones(50, dtype=torch.int32)
            predicted[torch.arange(right).add(7 * k) % 50] = 0
            probability = torch.zeros(50, 2, dtype=torch.float16)
            save_state(
                file.parent / "test-predictions.safetensors",
                {"images": images, "label": labels, "predicted": predicted, "probability": probability},
            )
            folder.products = ("test-predictions.safetensors",)
            own = {"test_accuracy": right / 50, "per_class_accuracy": {"a": right / 50, "b": None}}
            folder.write_summary({**folder.summary(), "files": {}, **own})


def test_runs_that_judged_other_test_images_are_left_out_and_named(tmp_path, make):
    out = make(tmp_path / "run", *TWO_BUDGETS)
    keep_predictions_of(out, "scratch", "pretrained")
    keep_predictions_of(out, "random-frozen", images="those before the data were changed")
    results = read_results(out)
    assert set(results.runs["arm"]) == {"scratch", "pretrained", "pretrained-frozen"}
    (line,) = results.failures
    assert line.startswith("random-frozen, 20 labels, seed 0;")
    assert line.endswith("it judged other test images than those of the comparison: run the same command again")


def test_the_report_shows_both_intervals_where_runs_kept_predictions(tmp_path, make):
    out = make(tmp_path / "run", *TWO_BUDGETS)
    keep_predictions_of(out, "scratch", "pretrained", "random-frozen")
    write_report(out)
    results = read_results(out)
    paired = {(c.arm, c.labels): c for c in compare_arms(results.runs, "scratch")}
    stored = {(row["arm"], row["labels"]): row for row in json.loads((out / "results.json").read_text())["comparisons"]}
    text, page = text_of(out), page_of(out)
    for arm in ("pretrained", "random-frozen"):
        c = paired[arm, 20]
        low, high = c.difference.new_images
        assert (stored[arm, 20]["low_new_images"], stored[arm, 20]["high_new_images"]) == (low, high)
        assert low < c.difference.low
        assert f" | {100 * low:+.2f} to {100 * high:+.2f} | " in text
        assert c.sentence() in page
    assert stored["pretrained-frozen", 20]["low_new_images"] is None
    assert "| 95%, new seeds | 95%, new seeds and images |" in text
    assert "Intervals and verdicts of pretrained-frozen (20 labels) and pretrained-frozen (50 labels) hold" in text
    assert "Seeds and test images are crossed random effects (Dorfman, Berbaum and Metz 1992)" in text
    assert "and for new seeds and images as a thin line" in page
    assert "It holds for new seeds and new test images." in page


def test_the_report_says_that_intervals_hold_for_these_images_where_no_run_kept_predictions(out):
    text = text_of(out)
    assert "- Intervals and verdicts hold for other seeds on these very test images, and not for other test" in text
    assert "new seeds and images" not in text
    assert "They do not account for the choice of the test split (50 images)" in text
    assert "a two-sided paired t test, corrected" in text


def test_the_verdict_comes_first_and_the_caveats_follow(out):
    page = page_of(out)
    equal = "Compared with the compute-matched arm scratch-matched, it made no detectable difference with 20 labels"
    parts = [
        "pretraining helped with 20 labels",
        equal,
        "labels, pretrained is as accurate as scratch with",
        "tuned equally",
        "<svg",
    ]
    assert [page.index(part) for part in parts] == sorted(page.index(part) for part in parts)
    lost = (
        "With 20, 50 and 200 labels, pretraining helps against scratch but shows no gain over the compute-matched arm"
    )
    assert f"{lost} scratch-matched." in page
    assert "Each tried the same 4 combinations of settings at each label budget" in page
    assert "The test split has only 50 images, so one image is worth 2 points." in page


def test_a_caveat_says_that_seeds_share_their_labels_where_a_budget_is_all(out):
    results = read_results(out)
    assert not any("every seed learns from the same" in line for line in caveats(results, [], []))
    results = replace(results, comparison=replace(results.comparison, labels=[20, "all"]))
    assert any("every seed learns from the same" in line for line in caveats(results, [], []))


def test_a_caveat_names_the_draws_that_all_seeds_share(tmp_path, make, out):
    held = read_results(make(tmp_path / "held", *ALL, "hold=[labels,pretraining]"))
    said = "All seeds share the labelled images and the pretraining of pretrained arms."
    assert any(line.startswith(said) for line in caveats(held, [], []))
    assert not any("All seeds share" in line for line in caveats(read_results(out), [], []))


def test_settings_that_arms_have_of_their_own_are_named(tmp_path, make):
    ridge = "recipe: {freeze: true, head: ridge, steps: 0}"
    options = (
        *("labels=[20]", "tuning.trials=2", "+tuning.space.learning_rate=[0.01,0.1]"),
        *(f"++arms.pretrained-frozen={{init: pretrained, {ridge}}}", f"++arms.random-frozen={{{ridge}}}"),
        "++arms.pretrained={init: pretrained, recipe: {mixup: 1.0}}",
    )
    out = make(tmp_path / "run", *options)
    write_report(out)
    own = "pretrained has its own mixup; pretrained-frozen and random-frozen have their own head and steps"
    fixed = "Nothing was left to tune for pretrained-frozen and random-frozen"
    assert f"that no run has. Exceptions: {own}. {fixed}." in text_of(out)
    assert {*pd.read_csv(out / "trials.csv")["arm"]} == {"scratch", "pretrained"}


def test_a_caveat_names_the_arms_whose_layers_tuning_froze(tmp_path, make):
    options = ("labels=[20,50]", "tuning=sgd", "+tuning.space.freeze=[true,false]")
    # The first trial is the best by construction.
    page = page_of(write_report(make(tmp_path / "run", *options)).path.parent)
    assert "Tuning chose frozen layers for scratch (20 and 50 labels) and pretrained (20 and 50 labels)." in page


def test_a_trial_shows_a_dash_for_a_setting_that_only_others_try(tmp_path, make):
    page = text_of(write_report(make(tmp_path / "run", "labels=[20]", "tuning=transfer")).path.parent)
    assert "| 20 | 3 | 1000 | 0.004 | adamw | - | - | - | - | - |" in page
    assert "| 20 | 6 | 1000 | - | - | - | - | ridge | True | 0 |" in page


def test_caveats_mention_missing_tuning_seeds_and_matched_compute(tmp_path, make):
    page = page_of(write_report(make(tmp_path / "run", "labels=[20]", "seeds=[0,1]")).path.parent)
    assert (
        "Nothing was tuned. All arms ran with the same settings, chosen by hand. These settings may suit one arm"
        in page
    )
    assert "The verdict rests on as few as 2 paired seeds; a claim needs 5 or more." in page
    assert "too few seeds for a claim" in page
    assert "No arm from scratch is compute-matched" in page
    assert "tuned equally" not in page
    frozen = ("labels=[20]", "seeds=[0,1]", "baseline=random-frozen")
    # Longer training cannot help a frozen baseline.
    page = page_of(write_report(make(tmp_path / "frozen", *frozen)).path.parent)
    assert "compute-matched" not in page


def points_in(text):
    return [float(points) for points in re.findall(r"\(([-+.0-9]+)(?: points)?\)", text)]


def test_a_frozen_baseline_is_compared_with_a_frozen_arm(tmp_path, make):
    report = write_report(make(tmp_path / "frozen", "labels=[20]", "baseline=random-frozen"))
    # The arm that fine-tunes its layers would gain 34 points.
    assert abs(points_in(report.headline)[0] - 10) < 1
    report = write_report(make(tmp_path / "alone", "labels=[20]", "baseline=random-frozen", "~arms.pretrained-frozen"))
    assert report.headline == "No pretrained arm has been compared with random-frozen yet."


def test_with_a_pretrained_baseline_the_headline_judges_every_arm(tmp_path, make):
    report = write_report(make(tmp_path / "run", "labels=[20]", "baseline=pretrained"))
    assert "pretrained, which is pretrained itself, with 20 labels these arms hurt: scratch (" in report.headline
    assert points_in(report.headline) == pytest.approx([-4, -24, -34], abs=1)


def test_a_shared_recipe_that_freezes_makes_every_arm_frozen(configure):
    frozen = ("recipe.freeze=true", "recipe.head=ridge", "recipe.steps=0")
    assert list(panels(configure("compare", "out=x", *frozen))) == ["frozen layers"]


def test_a_caveat_says_that_many_arms_are_compared(tmp_path, make):
    few = page_of(write_report(make(tmp_path / "few", "labels=[20]")).path.parent)
    assert "nothing is corrected for their number" not in few
    more = [f"+arms.more-{k}={{init: pretrained}}" for k in range(3)]
    many = page_of(write_report(make(tmp_path / "many", "labels=[20]", *more)).path.parent)
    assert "6 arms are compared, and nothing is corrected for their number" in many


def test_the_page_stands_alone(out):
    page = page_of(out)
    loads = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"'#][^\"']{0,40})", page) + re.findall(r"url\(([^)#]{1,40})", page)
    assert [target for target in loads if not target.startswith("data:")] == []
    assert "<script" not in page
    assert page.count("data:image/png") == 1
    assert set(re.findall(r"https?://[^\s\"<]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_report_is_a_function_of_the_folder(out):
    def files():
        return {file: file.read_bytes() for file in [*out.glob("*.*"), *out.glob("figures/*")]}

    before = files()
    write_report(out)
    assert files() == before


def test_every_figure_has_its_own_file_and_figures_of_a_former_report_are_deleted(out):
    panel = ("main-arms", "fewer-layers-kept", "fewer-unlabelled-images", "frozen-layers")
    names = {f"{kind}-{title}" for kind in ("accuracy", "differences") for title in panel}
    names |= {f"{kind}-{labels}-labels" for kind in ("time", "probes") for labels in BUDGETS}
    names |= {"labels-saved", "layers-kept", "unlabelled-images"}
    assert {file.name for file in out.glob("figures/*")} == {f"{n}.{kind}" for n in names for kind in ("png", "svg")}
    assert page_of(out).count("<svg") == len(names)
    for name in names:
        assert ElementTree.parse(out / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
        with Image.open(out / "figures" / f"{name}.png") as image:
            image.load()
            assert image.getcolors(4) is None
    (out / "figures" / "time-7-labels.png").touch()
    (out / "figures" / "mine.png").touch()
    write_report(out)
    assert not (out / "figures" / "time-7-labels.png").exists()
    (out / "figures" / "mine.png").unlink()


def test_overwriting_deletes_the_report_and_nothing_else(tmp_path, make):
    out = make(tmp_path / "run")
    write_report(out)
    (out / "figures" / "mine.png").touch()
    config = RunFolder(out).config()
    assert RunFolder.open(out, config, products=Comparison.products).config() == config
    RunFolder.open(out, {**config, "labels": [30]}, overwrite=True)
    assert {file.name for file in out.glob("*.*")} == {"config.yaml", "env.json", ".lock"}
    assert [file.name for file in out.glob("figures/*")] == ["mine.png"]


def test_trials_and_probes_have_tables_of_their_own(out):
    trials, probes = pd.read_csv(out / "trials.csv"), pd.read_csv(out / "probes.csv")
    assert len(trials) == 7 * 3 * 4
    # The first trial is the best by construction.
    assert (trials[trials["chosen"] == "yes"]["trial"] == 1).all()
    assert (trials["chosen"] == "yes").sum() == 7 * 3
    assert trials[["learning_rate", "head_steps"]].drop_duplicates().shape == (4, 2)
    assert page_of(out).count(">chosen</td>") == 7 * 3
    assert len(probes) == 2 * 3 * 5 * 3
    assert probes[(probes["init"] == "pretrained") & (probes["depth"] == 2)]["test_accuracy"].min() == 0.7


def test_frozen_arms_have_their_own_panel_and_many_arms_have_several(configure):
    more = [f"+arms.more-{k}={{init: pretrained}}" for k in range(4)]
    more += ["+arms.noisy={init: pretrained, stack: {stages: {stage1: {corruption: gaussian}}}}"]
    shown = panels(configure("compare", "out=x", *ALL, *more))
    assert all(arms[0] == "scratch" and len(arms) <= 5 for arms in shown.values())
    assert shown["other pretraining"] == ["scratch", "pretrained", "noisy"]
    without = panels(configure("compare", "out=x", *more[-1:], *[f"~arms.{arm}" for arm in ("pretrained", *FROZEN)]))
    # Here noisy is the main arm itself.
    assert without == {"other pretraining": ["scratch", "noisy"]}
    assert shown["frozen layers"] == ["scratch", *FROZEN]
    assert shown["fewer layers kept"] == ["scratch", "pretrained-1"]
    assert shown["fewer unlabelled images"] == ["scratch", "unlabelled-100"]
    assert shown["main arms, 2"] == ["scratch", "more-2", "more-3"]


def test_an_axis_marks_as_many_budgets_as_have_room():
    _, axes = panel()
    over_labels(axes, [100, 120, 144, 173, 208, 1000])
    assert list(axes.get_xticks()) == [100, 144, 208, 1000]


def test_arms_of_one_budget_share_a_panel_and_each_has_one_row(configure):
    more = [f"+arms.more-{k}={{init: pretrained}}" for k in range(9)]
    shown = panels(configure("compare", "out=x", *more, "labels=[20]"))
    assert shown["main arms"] == ["scratch", "pretrained", *(f"more-{k}" for k in range(9))]
    groups = {arm: [Row("", 50.0, 49.0, 51.0, [50.0])] for arm in ("scratch", "pretrained")}
    _, axes = rows(groups, styles(groups, "scratch"))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["scratch", "pretrained"]
    assert [text.get_text() for text in axes.texts] == []


def test_names_at_the_ends_of_lines_do_not_overlap():
    moved = apart([0.5, 0.51, 0.9, 0.49])
    assert np.diff(np.sort(moved)).min() >= TEXT_HEIGHT - 2e-3
    assert np.argsort(moved).tolist() == [3, 0, 1, 2]
    assert apart([0.1, 0.9]) == [0.1, 0.9]


def test_a_comparison_that_still_runs_has_a_report_of_its_complete_runs(tmp_path, make):
    keep = lambda task: not (isinstance(task, FinetuningTask) and task.trial is None and task.seed > 1)  # noqa: E731
    out = make(tmp_path / "run", keep=keep)
    write_report(out)
    assert "42 of 105 runs, 84 of 84 trials, 12 of 12 pretrainings, 30 of 30 probes are complete." in text_of(out)
    assert "too few seeds" in page_of(out)


def test_a_comparison_with_some_trials_only_has_a_report_without_a_choice(tmp_path, make):
    out = make(tmp_path / "run", keep=lambda task: isinstance(task, FinetuningTask) and task.trial in (1, 2))
    write_report(out)
    assert "No run is complete yet. 0 of 105 runs, 42 of 84 trials" in page_of(out)
    assert set(pd.read_csv(out / "trials.csv")["chosen"]) == {"no"}
    shutil.rmtree(out / "trials")
    write_report(out)
    assert not (out / "trials.csv").exists()


def test_failed_tasks_are_named_with_their_reasons(tmp_path, make):
    out = make(tmp_path / "run", keep=lambda task: task.seed not in (3, 1000))
    failing = tasks(read_results(out).comparison)
    for task in failing:
        if task.seed in (3, 1000) and task.folder(out).parts[-3] != "random-frozen":
            task.folder(out).mkdir(parents=True)
            reason = (
                "too steep"
                if isinstance(task, FinetuningTask) and task.trial == 0
                else f"{task.kind} diverged <at step 3>"
            )
            (task.folder(out) / "failure.txt").write_text(f"{reason}\n")
    write_report(out)
    text = text_of(out)
    assert re.search(r"- pretraining, seed 1000; .*pretraining, seed 3.*: pretraining diverged &lt;at step 3>", text)
    assert re.search(r"scratch, 20 labels, seed 1000, trial 2; .*scratch, 20 labels, seed 3.*: scratch diverged", text)
    assert re.search(r"- probe of scratch layers, 20 labels, seed 3; .*: probe diverged &lt;at step 3>", text)
    assert "failed: too steep</td>" in page_of(out)
    assert "&lt;at step 3&gt;" in page_of(out)
    assert "diverged <at" not in page_of(out)
    assert set(pd.read_csv(out / "trials.csv")["chosen"]) == {"no"}


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
def test_a_run_with_a_damaged_file_is_left_out_and_named(tmp_path, make, name):
    out = make(tmp_path / "run", *TWO_BUDGETS)
    whole = len(read_results(out).runs)
    file = out / "runs" / "scratch" / "labels-20" / "seed-0" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    write_report(out)
    assert len(read_results(out).runs) == whole - 1
    assert re.search(rf"- scratch, 20 labels, seed 0: {file} is damaged \(it", text_of(out))


def test_a_damaged_picture_is_not_shown(tmp_path, make):
    out = make(tmp_path / "run", *TWO_BUDGETS)
    (file,) = PretrainingTask(0).folder(out).glob("*.png")
    assert not RunFolder(file.parent).summary()["files"]
    folder = RunFolder(file.parent)
    folder.products = ("*.png",)
    folder.write_summary({**folder.summary(), "files": {}})
    write_report(out)
    assert "stage 1 filters" in page_of(out)
    file.write_bytes(file.read_bytes()[:-9])
    write_report(out)
    assert "stage 1 filters" not in page_of(out)
    assert f"{file} is damaged" in page_of(out)


def test_a_run_that_went_on_elsewhere_is_a_caveat(tmp_path, make):
    out = make(tmp_path / "run", *TWO_BUDGETS)
    sittings = [{"torch": "2.6.0", "threads": 1}, {"torch": "2.6.0", "threads": 2}]
    write_json(out / "runs" / "scratch" / "labels-20" / "seed-0" / "env.json", {"sittings": sittings})
    write_report(out)
    assert "1 run went on in another environment" in text_of(out)
    assert "scratch, 20 labels, seed 0: threads was 1 and is 2" in text_of(out)


def test_a_folder_without_a_comparison_has_no_report(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0")
    with pytest.raises(UserError, match="holds a run, but not a comparison"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("override", "heading", "said"),
    [
        ("data.validation=100", "Data", "100 training images are set aside"),
        (
            "stack.stages.stage1.layer.out_channels=7",
            "Network and pretraining",
            "Stage 1: a convolutional autoencoder, 7 maps",
        ),
        ("stack.stages.stage2.layer.kernel_size=5", "Network and pretraining", "filters of 5x5"),
        ("stack.preprocessing=whiten", "Network and pretraining", "whitened"),
        ("stack=crbm_small", "Network and pretraining", "a convolutional restricted Boltzmann machine"),
        (
            "stack.stages.stage1.training.steps=77",
            "Network and pretraining",
            "It is trained for 77 steps on batches of 128",
        ),
        ("recipe.flip=true", "Fine-tuning", "mirrored at random"),
        ("recipe.crop=0", "Fine-tuning", "Images are not augmented"),
        ("recipe.schedule=constant", "Fine-tuning", "then constant"),
        ("recipe.early_stopping=true", "Fine-tuning", "Training stops after 5 validations without a rise"),
        ("recipe.l2_sp=10", "Fine-tuning", "(L2-SP, strength 10) in place of weight decay, which the head keeps."),
        ("recipe.head=ridge", "Fine-tuning", "The head is fitted by ridge regression on the standardized outputs"),
        ("recipe.head=ridge", "Seeds and pairing", "The arms of one seed see the same labels, so each is compared"),
        ("+arms.scratch.recipe.head=ridge", "Seeds and pairing", "see the same labels, so each is compared"),
        ("+tuning.space.head=[random, ridge]", "Seeds and pairing", "see the same labels, so each is compared"),
        (
            "recipe={head: logistic, freeze: true, steps: 0}",
            "Fine-tuning",
            "There is no training after that. Tuning replaces",
        ),
        ("tuning=none", "Tuning", "No setting was tuned"),
        (
            "tuning.trials=2",
            "Tuning",
            "same 2 combinations of settings at each label budget, taken from (optimizer=sgd; learning_rate in 0.005",
        ),
        ("tuning=transfer", "Tuning", "0.004) or (optimizer=adamw; learning_rate=0.001; l2_sp=10; mixup=1) or"),
        ("tuning.seeds=[8,9]", "Tuning", "each of the seeds 8, 9"),
        ("seeds=[4,5]", "Seeds and pairing", "Seeds: 4, 5."),
        ("hold=[pretraining]", "Seeds and pairing", "All seeds share the pretraining of pretrained arms, as seed 0"),
        ("hold=[labels]", "Seeds and pairing", "A seed draws the initial weights, the order of images"),
        (
            "hold=[order]",
            "Statistics",
            "but not of the order of images (with augmentation and dropout), which all seeds",
        ),
        ("labels=[30]", "Statistics", "over all seeds and all test images. Seeds"),
        ("+arms.scratch.recipe.dropout=0.1", "Arms", "scratch (init=scratch, dropout=0.1)"),
    ],
)
def test_the_methods_text_follows_the_configuration(tmp_path, make, default_methods, override, heading, said):
    changed = make(tmp_path / "changed", *ALL, override, keep=lambda task: False)
    before, after = (" ".join(told[heading]) for told in (default_methods, methods(read_results(changed))))
    assert said in after
    assert said not in before


def test_the_methods_text_counts_classes_and_images(out):
    assert "in 2 classes." in page_of(out)
    assert "The test split has 50 images. The unlabelled pool has 1,000: the training images" in page_of(out)


TWO_BUDGETS = ("labels=[20,50]", "seeds=[0,1,2,3,4]")


def test_two_comparisons_on_the_same_images_are_paired(tmp_path, make):
    one, two = (
        make(tmp_path / "one", *TWO_BUDGETS),
        make(tmp_path / "two", *TWO_BUDGETS, "+arms.extra={init: pretrained}"),
    )
    for file in two.glob("runs/pretrained/*/*/summary.json"):
        summary = read_json(file)
        write_json(file, {**summary, "test_accuracy": round(summary["test_accuracy"] + 0.03, 4)})
    report = write_side_by_side([one, two], tmp_path / "both")
    results = pd.read_csv(tmp_path / "both" / "results.csv")
    assert tuple(results.columns) == COLUMNS
    assert {"one: pretrained", "two: pretrained", "extra"} < set(results["arm"])
    text = text_of(tmp_path / "both")
    assert "paired by labels and seed, on the same images" in text
    of = results[results["arm"].isin(["one: pretrained", "two: pretrained"])]
    for c in compare_arms(of, "one: pretrained"):
        row = f"| two: pretrained | {c.labels} | 5 | +3.00 | +3.00 to +3.00 | {c.p:.2g} | "
        assert row + f"{c.p_corrected:.2g}" in text
    assert "| two: scratch | 20 | 5 | +0.00 |" in text
    assert report.headline.splitlines()[0].startswith("one: Compared with scratch, pretraining helped")
    before = {file: file.read_bytes() for file in (tmp_path / "both").rglob("*.*")}
    write_side_by_side([one, two], tmp_path / "both")
    assert {file: file.read_bytes() for file in (tmp_path / "both").rglob("*.*")} == before


@pytest.mark.parametrize("change", [{"labelled_digest": "1"}, {"seeds": [0, 1, 2, 3, 5]}])
def test_the_report_says_why_two_comparisons_cannot_be_paired(tmp_path, make, change):
    one, two = make(tmp_path / "one", *TWO_BUDGETS), make(tmp_path / "two", *TWO_BUDGETS)
    config = RunFolder(two).config() | change
    (two / "config.yaml").write_text(yaml.safe_dump(config))
    write_side_by_side([one, two], tmp_path / "both")
    text = text_of(tmp_path / "both")
    reason = (
        "their labelled images or their test images differ" if "labelled_digest" in change else "their seeds differ"
    )
    assert f"not paired, since {reason}" in text
    results = pd.read_csv(tmp_path / "both" / "results.csv").set_index(["arm", "labels"])["test_accuracy"]
    mean, low, high = welch(results["two: scratch", 20], results["one: scratch", 20])
    numbers = f"{100 * mean:+.2f} | {100 * low:+.2f} to {100 * high:+.2f}"
    assert f"| two: scratch | one: scratch | 20 | {len(results['two: scratch', 20])}, 5 | {numbers} |" in text


def test_the_interval_of_two_unpaired_means_follows_welch():
    """With equal sizes and spreads, Welch's degrees of freedom are 2n - 2 (Welch 1947), here 8."""
    mean, low, high = welch(pd.Series([1.0, 2, 3, 4, 5]), pd.Series([2.0, 3, 4, 5, 6]))
    assert (mean, low, high) == pytest.approx((-1, -1 - 2.306004, -1 + 2.306004))


def test_names_of_folders_have_as_many_parents_as_it_takes_to_tell_them_apart(tmp_path):
    assert unique_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert unique_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def test_wrong_folders_for_a_report_on_several_comparisons_are_named(tmp_path, make, out):
    with pytest.raises(UserError, match="is given more than once"):
        write_side_by_side([out, out / "runs" / ".."], tmp_path / "both")
    other = make(tmp_path / "other", *TWO_BUDGETS, keep=lambda task: False)
    with pytest.raises(UserError, match="holds something other than a report"):
        write_side_by_side([out, other], other)
    write_side_by_side([out, other], tmp_path / "both")
    assert "No run is complete yet." in page_of(tmp_path / "both")


def test_the_report_of_a_comparison_may_be_written_to_another_folder(tmp_path, out):
    report = write_report(out, tmp_path / "elsewhere")
    assert report.path == tmp_path / "elsewhere" / "report.html"
    assert report.path.read_bytes() == (out / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("kept", "shared", "said"),
    [
        (
            False,
            3,
            "3 of 50 are copies, 2 of test images (1 equal) and 1 of validation images (0 equal). "
            "The copies were left out.",
        ),
        (True, 3, "The copies were kept."),
        (False, 0, "none was found"),
    ],
)
def test_the_methods_text_says_what_the_pool_shares_with_test_and_validation_images(tmp_path, make, kept, shared, said):
    out = make(tmp_path / "run", keep=lambda task: False)
    none, one, two = Count(0, 0), Count(0, 1), Count(1, 1)
    found = Leakage(kept, 50, shared, *((one, two) if shared else (none, none)), none, one, ())
    found.write(out / "leakage.json")
    assert said in methods(read_results(out))["Data"][1]
    assert ("keep their labels" in methods(read_results(out))["Data"][1]) == bool(shared)


@pytest.mark.parametrize(("freeze", "frozen"), [("true", True), ("false", False)])
def test_an_arm_knows_whether_it_is_frozen(configure, freeze, frozen):
    own = configure("compare", "out=x", f"+arms.own={{recipe: {{freeze: {freeze}}}}}")
    shared = configure("compare", "out=x", f"recipe.freeze={freeze}")
    assert own.arms["own"].frozen == shared.arms["scratch"].frozen == frozen


ODD_NAMES = ["<b title=x>", "$x_1$", "`code`", "a|b", "[link](x)", "猫 & dog", "*bold*", "$", "$$"]


def test_names_of_arms_are_text_in_the_page_the_tables_and_the_figures(tmp_path, make, recwarn):
    called = {}

    def renamed(arm):
        return called.setdefault(arm, ODD_NAMES[len(called)])

    out = make(tmp_path / "run", renamed=renamed)
    write_report(out)
    assert not recwarn.list
    arms = [*dict.fromkeys(pd.read_csv(out / "results.csv")["arm"])]
    assert arms == [*called.values()]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<b title" not in page
    assert "&lt;b title=x&gt;" in page
    drawn = " ".join(file.read_text(encoding="utf-8") for file in (out / "figures").glob("*.svg"))
    shown = [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]
    assert {"$x_1$", "`code`", "a|b", "$", "$$"} & {*arms} <= {*shown}


def test_names_of_arms_leave_the_markdown_as_it_is(tmp_path, make, out):
    called = {}

    def renamed(arm):
        return called.setdefault(arm, ODD_NAMES[len(called)])

    odd = make(tmp_path / "run", renamed=renamed)
    write_report(odd)
    plain, text = ((folder / "report.md").read_text(encoding="utf-8") for folder in (out, odd))
    assert "<" not in text
    assert "[link](x)" not in text
    assert "*bold*" not in text.replace(r"\*bold\*", "")
    # A bar in a name makes no column, and a line break no row.
    rows = [
        [re.sub(r"\\\|", "", line).count("|") for line in each.splitlines() if line[:1] == "|"]
        for each in (plain, text)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("text", ["a", "`a`", "```\n<b>\n```", "`" * 7])
def test_a_block_of_code_ends_where_its_text_does(text):
    fence, *inside, last = code_block(text).split("\n")
    assert fence == last
    assert "\n".join(inside) == text
    assert not any(line.startswith(fence) for line in inside)


def test_without_several_multiples_no_compute_is_reported(out):
    assert "What the compute buys" not in page_of(out) + text_of(out)
    assert read_json(out / "results.json")["compute"] == {"points": [], "frontiers": []}


def test_the_section_on_compute_agrees_with_the_statistics(tmp_path, make):
    out = make(tmp_path / "run", "labels=[20,50]", "compute=[1,4,16]", "shared_by=5")
    report = write_report(out)
    stored, page, text = read_json(out / "results.json")["compute"], unescape(page_of(out)), text_of(out)
    assert "<h2>What the compute buys</h2>" in page
    main = [f for f in stored["frontiers"] if f["arm"] == "pretrained"]
    assert [(f["labels"], f["shared_by"]) for f in main] == [(20, 1), (20, 5), (50, 1), (50, 5)]
    # The gain of 4 points is worth four times the steps, so with P + c = 4c, scratch needs as much for P = 3c.
    for f in main[::2]:
        assert f["crossings"][0] == pytest.approx(16e9 * 4 / 3, rel=0.1)
        assert f["arm_range"] == [20e9, 80e9]
    assert all(f["sentence"] in page and f["sentence"] in text for f in stored["frontiers"])
    assert "Against scratch with the same total compute, pretraining included: with 20" in report.headline
    points = [p for p in stored["points"] if p["arm"] == "pretrained" and p["labels"] == 20]
    assert [p["total_flops"] for p in points] == [20e9, 32e9, 80e9]
    assert [p["shared_seconds"] for p in points] == [18 + 120, 18 + 480, 18 + 1920]
    assert "| pretrained | 20 | x 4 | 5 |" in text
    # The runs with the recipe's own steps are those of the other tables.
    of_arms = {(a["arm"], a["labels"]): a["mean"] for a in read_json(out / "results.json")["arms"]}
    assert {(p["arm"], p["labels"]): p["mean"] for p in stored["points"] if p["compute"] == 1} == pytest.approx(of_arms)


def test_compute_has_figures_and_other_caveats(tmp_path, make):
    out = make(tmp_path / "run", "labels=[20]", "compute=[1,4,16]", "~arms.random-frozen")
    write_report(out)
    names = [f"{what}-{title}" for what in ("compute", "compute-seconds") for title in ("main-arms", "frozen-layers")]
    names += [f"compute-differences-{title}" for title in ("main-arms", "frozen-layers")]
    assert {file.stem for file in out.glob("figures/compute-*.svg")} == {f"{name}-20-labels" for name in names}
    assert "No arm from scratch is compute-matched" not in text_of(out)
    assert "With other multiples of them, another learning rate might be better" in text_of(out)
    assert "**Total compute.** Arms that are trained in steps ran with 1, 4 and 16 times the steps" in text_of(out)
    few = make(tmp_path / "few", "labels=[20]", "compute=[1,2]")
    write_report(few)
    # Their curves do not overlap, so scratch was never given as much.
    assert "No arm from scratch is compute-matched" in text_of(few)
    assert "not comparable yet" in text_of(few)
    assert "Their curves would meet with a multiple of at least 5 in compute." in text_of(few)


def test_compute_that_has_not_run_yet_is_left_out(tmp_path, make):
    def first(task):
        return not isinstance(task, FinetuningTask) or task.compute == 1

    out = make(tmp_path / "run", "labels=[20]", "compute=[1,4]", keep=first)
    write_report(out)
    assert "20 of 40 runs" in text_of(out)
    (found, *_) = read_json(out / "results.json")["compute"]["frontiers"]
    assert found["arm_range"] == [20e9, 20e9]
