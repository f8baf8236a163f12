"""Each command as a user types it, from a folder that is not the clone.

A command takes seconds to start, so that most run in the process of the tests. Real processes tell one whole story,
share a batch, and say what is wrong.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import SMALL_RUN, user_environment
from PIL import Image

from pretrain import ConvAutoencoder
from pretrain.predict import column_names

CLASSES = ("dark", "light")


def run_process(folder, command, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"pretrain.{command}", *arguments],
        cwd=folder,
        env={**os.environ, **user_environment(folder), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder of images: two classes, a damaged file, and images without classes."""
    root = tmp_path_factory.mktemp("user")
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name, level in zip(CLASSES, (40, 200), strict=True):
            (root / "photos" / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.normal(level, 20, (24, 30, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / "photos" / split / name / f"{k}.png")
    (root / "photos" / "train" / "dark" / "broken.png").write_bytes(b"no image")
    return root


DATA = ["data=folder", "stack=cae_small", "data.root=photos", "data.image_size=16", "data.validation=8"]


@pytest.mark.integration
def test_from_images_to_predictions(folder, run_here):
    stage = run_process(folder, "stage", *DATA, *SMALL_RUN, "out=runs/cae")
    assert stage.returncode == 0, stage.stderr
    assert stage.stderr.count("1 files could not be read") == 1
    options = [*DATA, *SMALL_RUN, "init=pretrained", "stages=runs/cae", "recipe.steps=60", "labels=16"]
    finetune = run_process(folder, "finetune", *options, "out=runs/ft")
    assert finetune.returncode == 0, finetune.stderr
    assert "test accuracy 100.00%" in finetune.stdout
    trial = run_here(folder, "finetune", *options, "test=false", "out=runs/trial")
    assert "validation accuracy 100.00%" in trial.stdout
    assert json.loads((folder / "runs/trial/summary.json").read_text())["test_accuracy"] is None
    probe = run_here(
        folder, "probe", *DATA, *SMALL_RUN, "init=pretrained", "stages=runs/cae", "labels=16", "out=runs/probe"
    )
    assert probe.returncode == 0, probe.stderr
    assert [line.split()[0] for line in probe.stdout.splitlines()[2:5]] == ["0", "1", "2"]
    assert probe.stdout.count("100.00%") == 6
    predict = run_process(folder, "predict", "run=runs/ft", "images=photos/test")
    assert predict.returncode == 0, predict.stderr
    rows = list(csv.DictReader(predict.stdout.splitlines()))
    assert len(rows) == 12
    for row in rows:
        assert row["class"] == row["file"].split("/")[-2]
        assert float(row["dark"]) + float(row["light"]) == pytest.approx(1, abs=1e-3)
    written = run_here(folder, "predict", "run=runs/ft", "images=photos/test", "out=runs/classes.csv")
    assert written.stdout == "12 images classified: runs/classes.csv\n"
    assert (folder / "runs/classes.csv").read_text() == predict.stdout
    damaged = run_here(folder, "predict", "run=runs/ft", "images=photos/train/dark", "out=runs/dark.csv")
    assert damaged.stderr.startswith("skipped photos/train/dark/broken.png: ")
    if sys.platform == "linux":  # other systems have no names in an old encoding
        (folder / "runs/odd").mkdir()
        shutil.copy(folder / "photos/test/dark/0.png", os.fsencode(folder) + b"/runs/odd/caf\xe9.png")
        odd = run_here(folder, "predict", "run=runs/ft", "images=runs/odd", "out=runs/odd.csv")
        assert odd.returncode == 0, odd.stderr
        assert b"\nruns/odd/caf\xe9.png,dark," in (folder / "runs/odd.csv").read_bytes()
    assert {path.name for path in folder.iterdir()} <= {"photos", "runs", ".cache", ".config"}


def test_paths_with_accents_brackets_and_a_home_folder_are_taken_as_they_are(folder, run_here):
    odd = folder / "été (2)"
    odd.symlink_to(folder / "photos")
    options = ["data=folder", "stack=cae_small", "data.image_size=16", "data.validation=8", *SMALL_RUN]
    stage = run_here(folder, "stage", *options, "data.root=~/été (2)", "out=~/runs/ô", "upto=1")
    assert stage.returncode == 0, stage.stderr
    assert (folder / "runs/ô/stack.safetensors").exists()
    odd.unlink()


@pytest.mark.integration
def test_two_processes_share_a_batch(folder):
    options = [*DATA, *SMALL_RUN, "device.devices=2", "out=runs/two", "device.precision=32-true", "profile=true"]
    both = run_process(folder, "stage", *options)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("stages of") == 1
    assert both.stdout.count("where the time of the first of 2 processes went") == 1
    assert re.search(r"^  exchange +\d", both.stdout, flags=re.M)
    assert both.stderr.count("a trace of steps up to") == len([*(folder / "runs/two").glob("trace-*.json.gz")]) == 2


@pytest.mark.integration
def test_a_comparison_tells_its_verdict_and_goes_on_after_a_failure(folder, run_here):
    options = [*DATA, *SMALL_RUN, "recipe.steps=10", "labels=[16]", "seeds=[0]", "out=runs/compared"]
    failing = "+arms.wild={init: pretrained, recipe: {learning_rate: 1e30}}"
    both = run_here(folder, "compare", *options, failing)
    assert both.returncode == 2
    assert "1 run failed, and the report names them; the first: wild, 16 labels, seed 0" in both.stderr
    headline, where = both.stdout.splitlines()
    assert headline.startswith("Compared with scratch, pretraining had too few seeds for a claim with 16 labels (")
    assert where == "report: runs/compared/report.html"
    assert "wild, 16 labels, seed 0" in (folder / "runs/compared/report.html").read_text()
    once = run_here(folder, "compare", *options)
    assert (once.returncode, once.stdout) == (0, both.stdout)
    assert run_here(folder, "report", "run=runs/compared").stdout == both.stdout
    shutil.copytree(folder / "runs/compared", folder / "runs/again")
    assert run_here(folder, "report", "run=[runs/compared,runs/again]", "out=runs/both").returncode == 0
    assert (folder / "runs/both/report.html").exists()


@pytest.mark.integration
def test_two_processes_make_one_line_of_a_mistake(folder):
    both = run_process(folder, "stage", "device.devices=2", "device.accelerator=cpu", "out=photos")
    assert both.returncode == 2
    assert both.stderr == "error: photos is not empty and holds no run: give another out=.\n"


@pytest.mark.integration
def test_a_mistake_ends_a_process_with_one_line_and_a_status(folder):
    result = run_process(folder, "predict", "run=runs/nothing", "images=photos")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "error: run=runs/nothing holds no trained network (no network.safetensors).\n"


# An encoding of ASCII alone, a backend that is not installed, and settings that need a program.
ODD_ENVIRONMENT = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "MPLBACKEND": "module://no.such"}


@pytest.mark.integration
def test_names_encodings_and_settings_of_matplotlib_change_no_number(tmp_path):
    names = ["$", "$$", "class", "file", "猫"]
    for k, name in enumerate(names):
        for split in ("train", "test"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for n in range(3):
                Image.new("L", (8, 8), 20 + 40 * k + n).save(tmp_path / "photos" / split / name / f"{n}.png")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True")
    data = ["data=folder", "data.root=photos", "data.image_size=8", "data.validation=5", "data.duplicates=keep"]
    written = {}
    for out, environment in {"plain": {}, "odd": ODD_ENVIRONMENT}.items():
        options = [*data, *SMALL_RUN, "stack=cae_small", "recipe.steps=3", f"out={out}"]
        finetune = run_process(tmp_path, "finetune", *options, **environment)
        assert finetune.returncode == 0, finetune.stderr
        predict = run_process(tmp_path, "predict", f"run={out}", "images=photos/test", f"out={out}.csv", **environment)
        assert predict.returncode == 0, predict.stderr
        assert predict.stderr == ""
        assert finetune.stderr.count("\n") == 1  # the copies that are kept
        pictures = [(tmp_path / out / f"{name}.png").read_bytes() for name in ("confusion", "learning-curves")]
        written[out] = (tmp_path / f"{out}.csv").read_bytes(), *pictures
    assert written["plain"] == written["odd"]
    rows = list(csv.DictReader(written["odd"][0].decode("utf-8").splitlines()))
    assert [*rows[0]] == ["file", "class", *(f"p_{name}" for name in names)]


@pytest.mark.parametrize(
    ("classes", "columns"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["File", "p_file"], ["File", "p_file"]),
        (["file", "dog"], ["p_file", "p_dog"]),
        (["class", "file", "p_class"], ["p_class", "p_file", "p_p_class"]),
    ],
)
def test_each_column_of_predictions_has_a_name_of_its_own(classes, columns):
    assert column_names(classes) == ["file", "class", *columns]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("missing/x.csv", "out=missing/x.csv: there is no folder missing: make it, or give another file."),
        ("there", "out=there is a folder: give a file, such as out=there/predictions.csv."),
        ("file/x.csv", "out=file/x.csv: there is no folder file: make it, or give another file."),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_before_the_work(tmp_path, run_here, out, message):
    (tmp_path / "there").mkdir()
    # The network is not even read.
    for name in ("file", "there/network.safetensors"):
        (tmp_path / name).write_text("")
    result = run_here(tmp_path, "predict", "run=there", "images=photos", f"out={out}")
    assert (result.returncode, result.stderr) == (2, f"error: {message}\n")


@pytest.mark.parametrize("command", ["finetune", "probe", "compare", "report", "predict"])
def test_a_command_without_arguments_says_what_is_missing(tmp_path, run_here, command):
    result = run_here(tmp_path, command)
    assert result.returncode == 2
    assert all("is missing: give" in line for line in result.stderr.splitlines())


def test_describe_needs_no_arguments(tmp_path, run_here):
    assert run_here(tmp_path, "describe").returncode == 0


@pytest.mark.integration
@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("describe", 0, ""),
        ("predict run=. images=.", 2, "error: standard output is closed: give out=FILE.\n"),
    ],
)
def test_a_closed_standard_output_is_no_error_unless_it_is_all_there_is(tmp_path, command, status, said):
    (tmp_path / "network.safetensors").write_text("")
    result = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pretrain.{command} >&-"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (status, said)


def test_memory_that_runs_out_is_a_line_that_says_what_to_make_smaller(tmp_path, run_here):
    maps = [f"stack.stages.stage{k}.layer.out_channels={2**16}" for k in (1, 2)]  # 155 TB of weights
    result = run_here(tmp_path, "stage", *maps, "out=run", "device.accelerator=cpu")
    assert result.returncode == 2
    assert result.stderr.startswith("error: memory ran out (another ")
    assert "give a smaller batch_size, layer.out_channels or data.image_size" in result.stderr
    assert result.stderr.count("\n") == 1


def test_describe_prints_the_volume_of_each_layer_and_the_totals(folder, run_here):
    result = run_here(folder, "describe", "stack=cae_small")
    assert result.returncode == 0, result.stderr
    assert [line.split()[-3] for line in result.stdout.splitlines() if "conv" in line] == ["8x8x32", "4x4x64"]
    parameters = 32 * (9 + 1) + 64 * (9 * 32 + 1) + 10 * (4 * 64 + 1)
    assert result.stdout.split()[-2] == f"{parameters:,}"


def test_a_gradient_beyond_the_tolerance_fails_the_check(folder, run_here, monkeypatch):
    right = ConvAutoencoder.accumulate_grad

    def doubled(stage, x, generator):
        metrics = right(stage, x, generator)
        stage.layer.conv.weight.grad *= 2
        return metrics

    monkeypatch.setattr(ConvAutoencoder, "accumulate_grad", doubled)
    result = run_here(folder, "gradcheck", "stack=cae_small", "dimensions=2", "images=2")
    assert result.returncode == 1
    assert result.stderr.startswith("error: a gradient is wrong")
    assert "passed" not in result.stdout


def test_a_run_that_diverges_in_its_last_step_has_no_summary_and_no_network(tmp_path, run_here):
    rate = ["recipe.learning_rate=1e30", "recipe.steps=1"]
    result = run_here(tmp_path, "finetune", *rate, "labels=100", "out=run", "device.accelerator=cpu")
    assert result.returncode == 2
    assert result.stderr.startswith("error: finetune")
    assert "ower learning_rate=1e+30" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not {"summary.json", "network.pt"} & {file.name for file in (tmp_path / "run").iterdir()}


def test_an_interruption_says_that_the_command_goes_on(folder, run_here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.runs.device.Device.launch", interrupted)
    result = run_here(folder, "stage", "out=runs/x")
    assert result.returncode == 130
    assert result.stderr == "interrupted; run the same command again to resume\n"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("finetune", ["data=folder", "data.root=nowhere", "out=runs/x"], "nowhere/train is missing"),
        ("finetune", ["data=folder", "out=runs/x"], "data.root is missing"),
        ("predict", ["run=runs/nothing", "images=photos"], "holds no trained network"),
        ("report", ["run=photos"], "holds no run"),
        ("report", ["run=[photos,runs]"], "out is missing: a report over several comparisons"),
        ("report", ["run=[]"], "run=[] names no comparison"),
        (
            "describe",
            ["stack.stages.stage1.layer.kernel_size=20", "stack.stages.stage1.layer.padding=0"],
            "wider than the padded input",
        ),
        ("stage", ["out=photos"], "is not empty and holds no run"),
        ("stage", ["device.accelerator=abacus", "out=runs/y"], "device.accelerator=abacus"),
        ("stage", ["stack=tower"], "stack=tower is not known; choose one of cae, cae_small"),
        ("stage", ["stack.depth=3"], "stack.depth: there is no such setting; --cfg job shows all settings"),
        ("stage", ["seed="], "seed=: it must be a whole number"),
        (
            "stage",
            ["out=runs/y", "+stack.stages.stage1.depth=3"],
            "stack.stages.stage1.depth: there is no such setting; choose among filter_init",
        ),
        (
            "stage",
            ["out=runs/y", "+stack.stages.stage1.layer.in_channels=3"],
            "layer.in_channels: there is no such setting",
        ),
        (
            "stage",
            ["out=runs/y", "+stack.stages.stage1.layer.kernal_size=3"],
            "layer.kernal_size: there is no such setting",
        ),
        ("finetune", ["data=folder", "data.root=2024", "out=2025"], "2024/train is missing"),
        (
            "stage",
            ["out=runs/y", "stack.stages.stage1.layer.stride=two"],
            "stage1.layer.stride=two: it must be a whole",
        ),
        ("stage", ["out=runs/y", "stack.stages=3"], "stack.stages=3: give a name, and settings under it"),
        ("stage", ["out=runs/y", "stack.stages.stage1=3"], "stack.stages.stage1=3: give the settings of a stage"),
        ("stage", ["out=photos/train/light/0.png"], "is a file"),
        ("stage", ["out=runs/y", "upto=3"], "the stack has 2 stages"),
        ("stage", ["out=runs/y", "device.precision=64-true"], "choose one of auto, 32-true, bf16-mixed"),
        ("finetune", ["out=runs/y", "recipe.crop=8"], "crop=8: it must be from 0 to 7"),
        (
            "finetune",
            ["out=runs/y", "recipe.dropout=1.5"],
            "recipe.dropout=1.5: it must be a number at least 0",
        ),
        ("compare", ["out=runs/y", "seeds=[0,0]"], "without repeats"),
        ("compare", ["out=runs/y", "labels=[5]"], "labels=5: give a number from 10"),
        ("compare", ["out=runs/y", "+arms.pretrained.int=scratch"], "arms.pretrained.int cannot differ"),
        ("compare", ["out=/proc/y"], "/proc/y"),
        ("compare", ["out=runs/y", "arms.gentle={init: pretrained}"], "put + before it, as in '+arms.gentle="),
        (
            "compare",
            ["out=runs/y", "stack.stages.stage1.layer.activation=rellu"],
            "layer.activation=rellu is not known",
        ),
        ("finetune", ["out=runs/y", "upto=1"], "upto=1 is for pretrained layers: give init=pretrained"),
        ("compare", ["out=runs/y", "experiment=digit"], "experiment=digit is not known; did you mean digits?"),
        ("compare", ["out=runs/y", "labels=[10,"], "quote a list with spaces"),
        ("predict", ["runs/ft"], "write setting=value"),
        ("stage", ["data=folder", "data.root=photos", "data.unlabelled=[photos]", "out=runs/y"], "shares images with"),
        ("gradcheck", ["images=0"], "images=0: it must be a whole number at least 1"),
        ("stage", ["out=runs/y", "stack.name=${nothing}"], "'nothing' not found"),
        ("stage", ["out=runs/y", "stack.stages.stage1._target_=pretrain.Layer"], "must be a subclass of pretrain."),
        ("stage", ["out=runs/y", "stack.stages.stage1._target_=pretrain.Tower"], "pretrain.Tower is no kind of stage"),
        ("compare", ["out=runs/y", "jobs=2", "device.devices=2"], "cannot both be more than 1"),
        ("compare", ["out=runs/y", "arms.pretrained=3"], "arms.pretrained=3: give the settings that the arm changes"),
        ("report", ["run=[photos,photos]", "out=runs/y"], "photos is given more than once"),
    ],
)
def test_a_mistake_gives_one_line_and_a_status(folder, run_here, command, arguments, message):
    result = run_here(folder, command, *arguments)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("finetune", ["tuning=sgd", "out=x"], "tuning: pretrain.finetune has no settings of the group tuning"),
        ("predict", ["run=x", "stack=cae"], "stack: pretrain.predict has no settings of the group stack"),
        ("compare", [f"out=/tmp/{'a' * 300}", "foo=1"], "foo: there is no such setting"),
        ("compare", ["out=x", "+arms.x={recipe: 5}"], "arms.x.recipe=5: give a name, and settings under it"),
        ("compare", ["out=x", "+arms.x={init: pretrained, stack: {stages: 5}}"], "arms.x.stack.stages=5: give a name"),
        ("compare", ["out=x", "data.root=photos"], "data.root is a setting of data=cifar10 and data=folder"),
        (
            "compare",
            ["out=x", "arms.scrach.init=pretrained"],
            "did you mean arms.scratch.init? to add it, put + before",
        ),
        ("compare", ["out=x", "device=cuda"], "device=cuda is not known; give device.accelerator=cuda"),
        ("compare", ["out=x", "experiment=how-to-finetune"], "did you mean reference/how-to-finetune?"),
        ("describe", ["data=folder", "data.root=null"], "data.root"),
    ],
)
def test_a_likely_mistake_is_answered_with_its_remedy(folder, run_here, command, arguments, message):
    result = run_here(folder, command, *arguments)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


HEAVY = {"torch", "torchvision", "lightning_fabric", "sklearn", "pandas", "scipy", "statsmodels", "matplotlib"}


@pytest.mark.parametrize(
    ("command", "arguments", "status"),
    [
        *(
            (command, ["--help"], 0)
            for command in ("stage", "finetune", "probe", "compare", "report", "predict", "gradcheck")
        ),
        ("describe", ["stack=cae_small"], 0),
        ("report", ["run=nothing"], 2),
        ("stage", ["sed=1"], 2),
        ("stage", ["stack.stages.stage1.layer.kernal_size=3"], 2),
        ("stage", ["stack.stages.stage1.layer.kernel_size=0"], 2),
        ("stage", ["stack.stages.stage1.layer.stride=3", "stack.stages.stage1.layer.padding=0"], 2),
        ("stage", ["stack.stages.stage1.training.steps=0"], 2),
        ("finetune", ["recipe.learning_rate=fast", "out=x"], 2),
        ("compare", ["seeds=3", "out=x"], 2),
    ],
)
def test_what_needs_no_training_is_answered_without_heavy_imports(folder, command, arguments, status):
    """So it is answered at once: importing torch alone takes longer than all of it."""
    program = (
        "import runpy, sys\n"
        "command, heavy = sys.argv.pop(1), set(sys.argv.pop(1).split(','))\n"
        "try: runpy.run_module(f'pretrain.{command}', run_name='__main__', alter_sys=True)\n"
        "finally: print(sorted(heavy & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, command, ",".join(HEAVY), *arguments],
        cwd=folder,
        env={**os.environ, **user_environment(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
