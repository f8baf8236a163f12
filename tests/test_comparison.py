import itertools
import json
import re

import pandas as pd
import pytest
from PIL import Image

from pretrain.comparison import cells, compare
from pretrain.errors import UserError
from pretrain.pipeline import open_run
from pretrain.reporting import COLUMNS, write_report
from pretrain.runs import RunFolder

GRID = [
    "labels=[20,40]",
    "seeds=[0,1]",
    "finetuning.steps=6",
    "finetuning.batch_size=16",
    "finetuning.evaluate_every=3",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory, configure):
    folder = tmp_path_factory.mktemp("comparison") / "run"
    compare(configure("compare", f"out={folder}", *GRID))
    write_report(folder)
    return folder


def summaries(out):
    return {file: file.stat().st_mtime_ns for file in out.glob("runs/*/*/*/summary.json")}


def test_every_cell_has_a_run_of_its_own_and_a_row_in_the_table(out, configure):
    grid = list(cells(configure("compare", "out=x", *GRID)))
    assert len(grid) == 4 * 2 * 2 == len(summaries(out))
    results = pd.read_csv(out / "results.csv")
    assert tuple(results.columns) == COLUMNS
    assert {(c.arm, c.labels, c.seed) for c in grid} == set(results[["arm", "labels", "seed"]].itertuples(index=False))


def test_rows_say_what_the_runs_say(out):
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
    compare(configure("compare", f"out={out}", *GRID))
    after = summaries(out)
    assert [file for file in after if after[file] != before[file]] == [victim / "summary.json"]
    again = json.loads((victim / "summary.json").read_text())
    assert again["test_accuracy"] == values["test_accuracy"]


def test_the_arms_of_a_seed_differ_in_nothing_else(out):
    runs = [RunFolder(file.parent).config() for file in summaries(out)]
    for run in runs:
        for key in ("arm", "init", "stages", "stages_digest", "out", "labels", "seed"):
            run.pop(key)
        run["finetuning"].pop("freeze")
    assert all(run == runs[0] for run in runs)


def test_the_page_stands_alone_and_leads_with_the_verdict(out):
    page = (out / "report.html").read_text()
    loads = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"'#][^\"']{0,40})", page) + re.findall(r"url\(([^)#]{1,40})", page)
    assert [target for target in loads if not target.startswith("data:")] == []
    assert "<script" not in page
    assert page.index("too few seeds") < page.index("<svg")
    assert page.count("<svg") == 3
    assert page.count("data:image/png") == 6


def test_the_report_is_a_function_of_the_folder(out):
    names = ("report.html", "report.md", "results.csv", "results.json")
    write_report(out)
    before = [(out / name).read_bytes() for name in names]
    write_report(out)
    assert [(out / name).read_bytes() for name in names] == before


def test_a_running_comparison_has_a_report_of_what_is_there(tmp_path, configure, digits, fabric):
    options = [f"out={tmp_path / 'run'}", *GRID, "labels=[20]", "device.precision=32-true"]
    compare(configure("compare", *options, "seeds=[0]"))
    grown = configure("compare", *options, "seeds=[0,1]")
    open_run(grown, digits, fabric, ignore=("seeds",))
    write_report(tmp_path / "run")
    assert "4 of 8 runs are complete" in (tmp_path / "run" / "report.md").read_text()


def test_runs_that_fail_are_named_and_the_others_go_on(tmp_path, configure):
    diverging = "stack.stages.stage2.training.learning_rate=1e30"
    config = configure("compare", f"out={tmp_path / 'run'}", *GRID, "labels=[20]", "seeds=[0]", diverging)
    failures = compare(config)
    assert [line.split(",")[0] for line in failures] == ["pretrained", "pretrained-frozen"]
    assert all(re.search(r"stage 2, step \d+ .*: not a finite number any more", line) for line in failures)
    assert len(summaries(tmp_path / "run")) == 2
    assert len(list(tmp_path.glob("run/runs/*/*/*/failure.txt"))) == 2
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("not a finite number any more") == 2
    assert compare(config) == failures


def test_a_comparison_on_other_images_is_refused_and_keeps_its_runs(tmp_path, configure):
    root = tmp_path / "photos"
    for split, name, k in itertools.product(("train", "test"), ("dark", "light"), range(6)):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * k + 20 * (name == "light")).save(root / split / name / f"{k}.png")
    data = ["data=folder", f"data.root={root}", "data.image_size=8", "data.channels=1", "data.cache=null"]
    options = [f"out={tmp_path / 'run'}", *data, *GRID, "labels=[4]", "seeds=[0]", "finetuning.crop=1"]
    assert compare(configure("compare", *options)) == []
    before = summaries(tmp_path / "run")
    Image.new("L", (8, 8), 255).save(root / "train" / "light" / "new.png")
    with pytest.raises(UserError, match="data_digest is"):
        compare(configure("compare", *options))
    assert summaries(tmp_path / "run") == before
    assert not list(tmp_path.glob("run/runs/*/*/*/failure.txt"))


def test_an_arm_may_be_added_but_not_changed(out, configure):
    before = summaries(out)
    with pytest.raises(UserError, match=r"arms\.pretrained\.finetuning\.dropout is not set there and 0\.1 here"):
        compare(configure("compare", f"out={out}", *GRID, "+arms.pretrained.finetuning.dropout=0.1"))
    options = ["+arms.gentle={init: pretrained, finetuning: {learning_rate: 0.001}}", "labels=[20]", "seeds=[0]"]
    compare(configure("compare", f"out={out}", *GRID, *options))
    added = out / "runs" / "gentle" / "labels-20" / "seed-0" / "summary.json"
    assert {file: time for file, time in summaries(out).items() if file != added} == before
    assert RunFolder(added.parent).config()["finetuning"]["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("baseline=nobody", "is not an arm"),
        ("seeds=3", "give a list"),
        ("labels=[]", "list"),
        ("labels=[1000,all]", "1000 are all"),
        ("labels=[20,5000]", "give a number from 10"),
        ("seeds=[0,1.5]", "1.5 is not a whole number"),
        ("finetuning.optimizer=sdg", "choose one of sgd, adamw"),
        ("+arms.pretrained.labels=50", "arms.pretrained.labels cannot differ"),
        ("arms.scratch.init=nothing", "choose one of scratch, pretrained"),
    ],
)
def test_a_mistake_is_named(tmp_path, configure, override, message):
    with pytest.raises(UserError, match=message):
        compare(configure("compare", f"out={tmp_path / 'run'}", override))


def test_there_is_no_report_of_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
