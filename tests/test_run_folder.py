import json
import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pretrain import RunFolder, UserError
from pretrain.runs.environment import environment
from pretrain.runs.progress import Progress
from pretrain.runs.resumption import differences
from pretrain.runs.sealed_files import read_json, write_json
from pretrain.runs.tensor_files import save_state

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
    assert kept == {"mine.csv", "notes.json", "photo.png", "model.pt", "config.yaml", "env.json", ".lock"}


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


@pytest.mark.parametrize("text", ["[1, 2", "just words"])
def test_a_damaged_configuration_is_one_line(tmp_path, text):
    folder = begun(tmp_path / "run")
    (folder.path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        RunFolder.open(tmp_path / "run", CONFIG)
    assert RunFolder.open(tmp_path / "run", CONFIG, overwrite=True).config() == CONFIG


def test_the_same_settings_go_on(tmp_path):
    begun(tmp_path / "run")
    assert len(RunFolder.open(tmp_path / "run", {**CONFIG, "out": "b"}, ignore=["out"]).metrics()) == 1


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no run"):
        RunFolder.open(tmp_path, CONFIG, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_resumed_run_logs_again_what_came_after_its_state(tmp_path):
    folder = begun(tmp_path / "run")
    folder.save("checkpoint", {"phase": "x"})
    folder.log({"phase": "x", "step": 2})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "x", "st')
    resumed = RunFolder.open(tmp_path / "run", CONFIG)
    resumed.load("checkpoint")
    resumed.rewind()
    resumed.log({"phase": "x", "step": 2, "again": True})
    assert [(row["step"], "again" in row) for row in resumed.metrics()] == [(1, False), (2, True)]


def test_without_a_state_a_resumed_run_logs_everything_again(tmp_path):
    begun(tmp_path / "run")
    resumed = RunFolder.open(tmp_path / "run", CONFIG)
    assert resumed.load("checkpoint") is None
    resumed.rewind()
    assert resumed.metrics() == []


def test_the_environment_says_what_a_result_may_depend_on(tmp_path):
    RunFolder.open(tmp_path / "run", CONFIG)
    written = json.loads((tmp_path / "run" / "env.json").read_text())
    (sitting,) = written["sittings"]
    assert torch.__version__.startswith(sitting["torch"])
    assert sitting["threads"] == torch.get_num_threads()
    assert sitting["command"].startswith("python ")
    assert sitting["process"] == os.getpid()


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


def saved(tmp_path, *steps, config=CONFIG):
    """Return the open folder of a run that has logged and saved each of some steps."""
    folder = RunFolder.open(tmp_path / "run", config)
    for step in steps:
        folder.log({"phase": "x", "step": step})
        folder.save("checkpoint", {"phase": "x", "step": step, "weights": torch.full((3,), float(step))})
    return folder


@pytest.mark.parametrize("damage", ["tear", "flip", "empty", "log"])
def test_a_damaged_state_falls_back_to_the_one_before_it(tmp_path, capsys, damage):
    folder = saved(tmp_path, 1, 2)
    file = folder.path / ("metrics.jsonl" if damage == "log" else "checkpoint.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    changed = {"tear": content[:-5], "flip": content, "empty": b"", "log": content}[damage]
    file.write_bytes(changed)
    assert folder.load("checkpoint")["step"] == 1
    folder.rewind()
    assert [row["step"] for row in folder.metrics()] == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {file} is damaged (")
    assert line.endswith("): going on from what was saved before it")


def test_a_damaged_state_never_takes_the_place_of_a_good_one(tmp_path):
    folder = saved(tmp_path, 1, 2)
    (folder.path / "checkpoint.safetensors").write_bytes(b"torn")
    assert folder.load("checkpoint")["step"] == 1
    folder.rewind()
    # A folder in the place of the unfinished file makes the save fail.
    (folder.path / "checkpoint.safetensors.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        folder.save("checkpoint", {"phase": "x", "step": 3})
    assert folder.load("checkpoint")["step"] == 1


def test_a_run_that_has_lost_its_environments_goes_on(tmp_path):
    folder = saved(tmp_path, 1)
    (folder.path / "env.json").unlink()
    assert RunFolder.open(tmp_path / "run", CONFIG).load("checkpoint")["step"] == 1
    (folder.path / "env.json").unlink()
    (folder.path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no run"):
        RunFolder.open(tmp_path / "run", CONFIG, overwrite=True)


def test_a_state_of_another_run_is_not_loaded(tmp_path, capsys):
    saved(tmp_path, 1)
    other = RunFolder.open(tmp_path / "other", {**CONFIG, "seed": 1})
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        shutil.copy(tmp_path / "run" / name, other.path)
    assert other.load("checkpoint") is None
    assert "it belongs to another run" in capsys.readouterr().err


def test_a_state_of_another_phase_is_passed_over(tmp_path, capsys):
    folder = saved(tmp_path, 1)
    assert folder.load("checkpoint", "y") is None
    assert folder.load("checkpoint", "x")["step"] == 1
    assert capsys.readouterr().err == ""


FILES = ["config.yaml", "env.json", "metrics.jsonl", "summary.json", "weights.safetensors", "picture.png"]


def completed(path):
    folder = RunFolder.open(path, CONFIG, products=["*.safetensors", "*.png"])
    folder.log({"phase": "x", "step": 1})
    save_state(folder.path / "weights.safetensors", {"weights": torch.ones(2)})
    (folder.path / "picture.png").write_bytes(bytes(range(64)))
    folder.write_summary({"accuracy": 0.5})
    return folder


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_of_a_complete_run_is_noticed(tmp_path, capsys, name):
    folder = completed(tmp_path / "run")
    contents = {each: each.read_bytes() for each in folder.path.iterdir()}
    file, whole = folder.path / name, contents[folder.path / name]
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        try:
            again = RunFolder.open(tmp_path / "run", CONFIG).summary()
        except UserError as error:
            # A changed setting may be told in other words.
            assert name in str(error) or "other settings" in str(error)  # noqa: PT017
        else:
            assert name == "summary.json"
            # The run is not complete any more, or what changed is no content: white space, or the name of the digest.
            said = capsys.readouterr().err
            assert again["accuracy"] == 0.5 if again else "summary.json is damaged" in said
        for each, content in contents.items():
            each.write_bytes(content)
    assert RunFolder.open(tmp_path / "run", CONFIG).summary()["accuracy"] == 0.5


@pytest.mark.parametrize("name", ["metrics.jsonl", "weights.safetensors", "picture.png"])
@pytest.mark.parametrize("loss", ["empty", "missing"])
def test_a_complete_run_that_has_lost_a_file_is_not_complete_and_may_run_again(tmp_path, name, loss):
    file = completed(tmp_path / "run").path / name
    file.write_bytes(b"") if loss == "empty" else file.unlink()
    with pytest.raises(UserError, match=rf"{name} is damaged.*overwrite=true"):
        RunFolder.open(tmp_path / "run", CONFIG)
    assert RunFolder.open(tmp_path / "run", CONFIG, overwrite=True).summary() is None


def test_a_run_with_a_torn_summary_goes_on(tmp_path, capsys):
    folder = completed(tmp_path / "run")
    (folder.path / "summary.json").write_text("{")
    again = RunFolder.open(tmp_path / "run", CONFIG)
    assert again.summary() is None
    assert "the run is not complete: going on with it" in capsys.readouterr().err
    again.write_summary({"accuracy": 0.5})
    assert RunFolder.open(tmp_path / "run", CONFIG).summary()["accuracy"] == 0.5


@pytest.mark.parametrize("name", ["checkpoint.pt", "stack.pt", "network.pt"])
def test_a_run_of_an_older_version_is_refused_in_one_line(tmp_path, name):
    folder = begun(tmp_path / "run")
    torch.save({}, folder.path / name)
    with pytest.raises(UserError, match=rf"older version of pretrain \({name}\).*overwrite=true"):
        RunFolder.open(tmp_path / "run", CONFIG)
    RunFolder.open(tmp_path / "run", CONFIG, overwrite=True)
    assert not (folder.path / name).exists()


def test_an_environment_of_an_older_version_is_the_only_sitting(tmp_path):
    (tmp_path / "env.json").write_text(json.dumps({"torch": "2.6.0", "threads": 4}))
    assert RunFolder(tmp_path).environments() == [{"torch": "2.6.0", "threads": 4}]


def test_going_on_in_another_environment_is_said_and_recorded(tmp_path, capsys):
    folder = begun(tmp_path / "run")
    content = read_json(folder.path / "env.json")
    content["sittings"][0] |= {"threads": 64, "processor": "an abacus"}
    write_json(folder.path / "env.json", content)
    again = RunFolder.open(tmp_path / "run", CONFIG)
    (line,) = capsys.readouterr().err.splitlines()
    assert "its bits may differ" in line
    assert f"threads was 64 and is {torch.get_num_threads()}" in line
    assert "processor was an abacus" in line
    assert [sitting["threads"] for sitting in again.environments()] == [64, torch.get_num_threads()]


def test_going_on_in_the_same_environment_is_not_worth_a_line(tmp_path, capsys):
    begun(tmp_path / "run")
    assert len(RunFolder.open(tmp_path / "run", CONFIG).environments()) == 2
    assert capsys.readouterr().err == ""


HOLD = """
import sys
from pretrain import RunFolder
folder = RunFolder.open(sys.argv[1], {"seed": 0})
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path):
    """Return another process that has the folder of a run open."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_second_process_is_told_which_one_has_the_run(tmp_path, other_process):
    config = {"seed": 0}
    with pytest.raises(UserError, match=rf"is in use by process {other_process.pid} on {socket.gethostname()}, since"):
        RunFolder.open(tmp_path / "run", config)
    other_process.kill()
    other_process.wait()
    RunFolder.open(tmp_path / "run", config).close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes_is_not_made_again(tmp_path, replaced):
    folder = begun(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    if replaced:
        (tmp_path / "run").mkdir()
    for write in (
        lambda: folder.log({"phase": "x", "step": 2}),
        lambda: folder.save("checkpoint", {}),
        lambda: folder.write_summary({}),
    ):
        with pytest.raises(UserError, match="was moved or deleted"):
            write()
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("name", [".DS_Store", "lost+found", "failure.txt.part", "config.yaml.part"])
def test_what_systems_and_interruptions_leave_does_not_block_a_folder(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("")
    assert RunFolder.open(tmp_path / "run", CONFIG).config() == CONFIG


def test_a_complete_run_in_a_folder_that_cannot_be_written_is_read(ordinary_user):
    folder = completed(ordinary_user / "run")
    (folder.path / ".lock").unlink()
    folder.path.chmod(0o555)
    assert RunFolder.open(folder.path, CONFIG).summary()["accuracy"] == 0.5
    folder.path.chmod(0o755)
