import json
import os
import pickle
from types import SimpleNamespace

import pytest
import torch

from pretrain import RunFolder, UserError
from pretrain.runs.atomic_files import load_checkpoint
from pretrain.runs.environment import environment
from pretrain.runs.progress import Progress
from pretrain.runs.resumption import differences

CONFIG = {"stack": {"name": "cae", "stages": {"stage1": {"pool": 2}}}, "seed": 0, "out": "a"}


def begun(path, config=CONFIG):
    folder = RunFolder.open(path, config)
    folder.log({"phase": "x", "step": 1, "loss": 1.0})
    return folder


def test_differing_settings_are_named_by_their_path():
    other = {"stack": {"name": "cae", "stages": {"stage1": {"pool": 3}}}, "seed": 1, "out": "b"}
    assert differences(CONFIG, other, ignore=["out", "stack.name"]) == [
        "stack.stages.stage1.pool is 2 there and 3 here",
        "seed is 0 there and 1 here",
    ]


def test_a_folder_with_other_settings_is_refused_unless_told(tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    other = {**CONFIG, "seed": 1}
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        RunFolder.open(tmp_path / "run", other)
    again = RunFolder.open(tmp_path / "run", other, overwrite=True)
    assert again.config() == other
    assert again.metrics() == []
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_mistake_before_any_work_does_not_block_the_folder(tmp_path):
    RunFolder.open(tmp_path / "run", {**CONFIG, "seed": 99})
    assert RunFolder.open(tmp_path / "run", CONFIG).config() == CONFIG


def test_files_that_a_run_did_not_write_are_never_deleted(tmp_path):
    begun(tmp_path / "run")
    for name in ("mine.csv", "notes.json", "photo.png", "model.pt"):
        (tmp_path / "run" / name).write_text("mine")
    RunFolder.open(tmp_path / "run", {**CONFIG, "seed": 1}, overwrite=True)
    kept = {file.name for file in (tmp_path / "run").iterdir()}
    assert kept == {"mine.csv", "notes.json", "photo.png", "model.pt", "config.yaml", "env.json"}


def test_a_complete_run_keeps_the_record_of_how_it_came_about(tmp_path):
    begun(tmp_path / "run").write_summary({"accuracy": 1.0})
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    RunFolder.open(tmp_path / "run", {**CONFIG, "out": "elsewhere"}, ignore=["out"])
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_last_line_that_was_cut_short_is_dropped(tmp_path):
    folder = begun(tmp_path / "run")
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "x", "st')
    assert [row["step"] for row in folder.metrics()] == [1]
    folder.rewind("x", 1)
    folder.log({"phase": "x", "step": 2})
    assert [row["step"] for row in folder.metrics()] == [1, 2]


@pytest.mark.parametrize("text", ["[1, 2", "just words"])
def test_a_damaged_configuration_is_one_line(tmp_path, text):
    folder = begun(tmp_path / "run")
    (folder.path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        RunFolder.open(tmp_path / "run", CONFIG)


def test_the_same_settings_go_on(tmp_path):
    begun(tmp_path / "run")
    assert len(RunFolder.open(tmp_path / "run", {**CONFIG, "out": "b"}, ignore=["out"]).metrics()) == 1


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no run"):
        RunFolder.open(tmp_path, CONFIG, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_rewinding_drops_what_came_after_the_checkpoint_in_this_phase_alone(tmp_path):
    folder = RunFolder.open(tmp_path / "run", CONFIG)
    for phase, step in (("a", 10), ("a", 20), ("b", 10), ("b", 20)):
        folder.log({"phase": phase, "step": step})
    folder.rewind("b", 10)
    assert [(row["phase"], row["step"]) for row in folder.metrics()] == [("a", 10), ("a", 20), ("b", 10)]


def test_a_checkpoint_round_trips(tmp_path):
    folder = RunFolder.open(tmp_path / "run", CONFIG)
    state = {"weights": torch.randn(3, 2), "step": 7, "nested": {"best": None}}
    folder.save("checkpoint.pt", state)
    loaded = folder.load("checkpoint.pt")
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))
    assert loaded == state


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_from_elsewhere_is_never_executed(tmp_path, write):
    file = tmp_path / "network.pt"
    write({"state": Malicious(tmp_path / "owned")}, file)
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_checkpoint(file)
    assert not (tmp_path / "owned").exists()


def test_the_environment_says_what_a_result_may_depend_on(tmp_path):
    RunFolder.open(tmp_path / "run", CONFIG)
    written = json.loads((tmp_path / "run" / "env.json").read_text())
    assert torch.__version__.startswith(written["torch"])
    assert written["threads"] == torch.get_num_threads()
    assert written["command"].startswith("python ")


def test_where_there_is_no_git_the_commit_is_not_known(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


def test_where_there_is_no_terminal_progress_is_told_in_lines_of_steps_and_images(monkeypatch, capsys):
    seconds = iter([0.0, 1.0, 10.0, 10.0, 10.0, 20.0])
    monkeypatch.setattr("pretrain.runs.progress.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with Progress("stage 1", 10, initial=2, unit="images", per_step=8) as progress:
        progress.update(3)
        progress.update(6, "loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "stage 1: 6/10, 3 images/s, 10 s left, loss 0.5",
        "stage 1: 6/10, 2 images/s, 20 s left",
    ]


def test_a_run_that_does_not_say_what_it_wrote_is_not_overwritten(tmp_path):
    folder = begun(tmp_path / "run")
    environment = folder.environment()
    del environment["products"]
    (folder.path / "env.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match="of an older version: delete it"):
        RunFolder.open(folder.path, {**CONFIG, "seed": 1}, overwrite=True)
    assert folder.config() == CONFIG
