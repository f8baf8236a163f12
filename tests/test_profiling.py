"""Profiled runs: the split of their time, their traces, and that they compute the same."""

import gzip
import json
import re
import threading
from collections import Counter
from typing import get_args

import pytest
import torch
from conftest import SMALL_RUN

from pretrain import RunFolder, Training
from pretrain.pipelines.layer_probing import run_probe
from pretrain.pipelines.network_finetuning import run_finetune
from pretrain.pipelines.stage_training import run_stages
from pretrain.runs import profiling
from pretrain.runs.profiling import PARTS, UNNAMED, Part, TimeSplit, profiled, timed
from pretrain.runs.tensor_files import load_state
from pretrain.training.step_traces import LAST_TRACED, TRACED, StepTrace
from pretrain.training.trainer import Trainer

RUNS = {"stage": run_stages, "finetune": run_finetune, "probe": run_probe}
RECIPE = ["recipe.steps=8", "recipe.batch_size=16", "labels=40"]
# Printed seconds have two decimals.
ROUNDING = 0.005
ROW = re.compile(r"  (.*?) +(\d+\.\d\d) s +(\d+\.\d)%")


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that stands still; return a function that lets seconds pass."""
    now = [0.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def told(printed):
    """Return the wall time and the seconds of each part that a command printed."""
    (wall,) = re.findall(r"went, (\d+\.\d\d) s in all:$", printed, flags=re.M)
    return float(wall), {name: float(seconds) for name, seconds, _ in ROW.findall(printed)}


def events(file):
    """Return how often each name occurs among the ranges and steps of a trace."""
    with gzip.open(file) as stream:
        trace = json.load(stream)["traceEvents"]
    return Counter(event["name"] for event in trace if event.get("cat") == "user_annotation")


def test_every_part_has_its_words():
    assert {*get_args(Part)} == {*PARTS}


def test_a_range_within_another_takes_its_time_from_it(clock, fabric, capsys):
    with profiled(fabric):
        clock(1)
        with timed("gradient"):
            clock(2)
            with timed("forward"):
                clock(3)
            with timed("backward"):
                clock(5)
            clock(7)
        with timed("forward"):
            clock(2)
    wall, seconds = told(capsys.readouterr().out)
    assert wall == 20
    assert seconds == {"forward": 5, "backward": 5, "gradient": 9, UNNAMED: 1}


def test_a_range_that_an_error_ends_is_measured_to_there(clock):
    split = TimeSplit(torch.device("cpu"))

    def fail():
        with split.timed("data"), split.timed("forward"):
            clock(3)
            raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        fail()
    clock(1)
    split.lines()
    assert split.seconds == {UNNAMED: 1, "data": 0, "forward": 3}


def test_an_interruption_is_told_and_an_error_is_not(fabric, capsys):
    for error, lines in ((KeyboardInterrupt, 1), (ValueError, 0)):
        with pytest.raises(error), profiled(fabric):
            raise error
        assert capsys.readouterr().out.count("where the time went") == lines
        assert timed("data") is timed("forward")


def test_nothing_is_measured_where_nobody_profiles(fabric, capsys):
    """All ranges are one and the same object, which does nothing, also in threads beside the run."""
    seen = []
    with profiled(fabric, wanted=False):
        assert timed("data") is timed("forward")
    with profiled(fabric):
        assert timed("data") is not timed("forward")
        thread = threading.Thread(target=lambda: seen.extend([timed("data"), timed("forward")]))
        thread.start()
        thread.join()
    assert seen[0] is seen[1]
    assert capsys.readouterr().out.count("where the time went") == 1


def train(folder, fabric, steps=LAST_TRACED, fails_in=None, error=ValueError):
    """Train a tiny module under a profile, and return its trainer; `error` is raised in the step `fails_in`."""
    module = torch.nn.Linear(3, 1)

    def compute_gradients(step):
        if step == fails_in:
            raise error
        with timed("forward"):
            loss = module(torch.ones(2, 3)).square().sum()
        with timed("backward"):
            loss.backward()
        return {"loss": float(loss.detach())}

    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "schedule": None}], lr=0.1)
    trainer = Trainer(
        name="stage 1",
        module=module,
        optimizer=optimizer,
        training=Training(steps=steps),
        compute_gradients=compute_gradients,
        seed=0,
        fabric=fabric,
        callbacks=[StepTrace(RunFolder(folder))],
    )
    with pytest.MonkeyPatch.context() as patch, profiled(fabric):
        patch.setattr("pretrain.training.trainer.apply_schedules", lambda *_: None)
        trainer.fit()
    return trainer


@pytest.mark.parametrize(
    ("steps", "traced"),
    [(1, range(0)), (2, range(1, 2)), (6, range(2, 6)), (30, range(LAST_TRACED - TRACED, LAST_TRACED))],
)
def test_a_trace_holds_a_few_steps_however_long_the_training(steps, traced, tmp_path, fabric):
    trainer = train(tmp_path, fabric, steps)
    assert trainer.callbacks[0].profiler is None
    if not traced:
        assert [*tmp_path.iterdir()] == []
        return
    (file,) = tmp_path.iterdir()
    assert file.name == "trace-stage1.json.gz"
    names = events(file)
    assert {name for name in names if name.startswith("ProfilerStep")} == {f"ProfilerStep#{k}" for k in traced}
    assert {names[name] for name in ("forward", "backward")} == {len(traced)}
    assert names["optimizer"] == 2 * len(traced)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("fails_in", [3, LAST_TRACED - TRACED - 1, LAST_TRACED - TRACED + 1])
def test_a_training_that_fails_leaves_no_profiler_running_and_no_trace(fails_in, error, tmp_path, fabric, capfd):
    """It fails while the profiler waits, warms up, or records; torch would complain of the next one, or at exit."""
    with pytest.raises(error):
        train(tmp_path, fabric, fails_in=fails_in, error=error)
    assert [*tmp_path.iterdir()] == []
    assert not torch.autograd.profiler._is_profiler_enabled
    train(tmp_path, fabric)
    assert events(tmp_path / "trace-stage1.json.gz")["forward"] == TRACED
    assert not re.search("Cancelling|no active profiling session", capfd.readouterr().err)


def test_on_a_full_disk_a_trace_is_whole_or_missing_and_the_training_goes_on(tmp_path, fabric, capsys):
    resource = pytest.importorskip("resource", reason="limits of files are those of Unix")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    train(tmp_path, fabric)
    file = tmp_path / "trace-stage1.json.gz"
    with gzip.open(file) as stream:
        size = len(stream.read())
    # The last buffer that is written may be cut off where the others were not.
    for limit in (0, size // 2, *range(size - 9000, size + 2000, 1000)):
        file.unlink(missing_ok=True)
        capsys.readouterr()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            trainer = train(tmp_path, fabric)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert trainer.step == LAST_TRACED
        note = "note: stage 1: no trace is written: " in capsys.readouterr().err
        assert note != file.exists()
        assert note or events(file)["forward"] == TRACED
        assert note or limit > size // 2


@pytest.mark.integration
@pytest.mark.parametrize("command", ["stage", "finetune"])
def test_a_profiled_run_gives_the_same_bits(command, tmp_path, configure, digits, fabric):
    for profile in ("false", "true"):
        options = [*(RECIPE if command == "finetune" else []), f"out={tmp_path / profile}", f"profile={profile}"]
        with profiled(fabric, wanted=profile == "true"):
            RUNS[command](configure(command, *options), digits, fabric)
    assert_same_run(tmp_path / "false", tmp_path / "true")


@pytest.mark.integration
@pytest.mark.parametrize("first", ["true", "false"])
def test_a_run_goes_on_with_a_profile_or_without(first, tmp_path, configure, digits, fabric):
    run_stages(configure("stage", f"out={tmp_path / 'once'}"), digits, fabric)
    other = "false" if first == "true" else "true"
    for options in (["upto=1", f"profile={first}"], [f"profile={other}"]):
        run_stages(configure("stage", f"out={tmp_path / 'twice'}", *options), digits, fabric)
    traced = "stage1" if first == "true" else "stage2"
    assert [file.name for file in (tmp_path / "twice").glob("trace*")] == [f"trace-{traced}.json.gz"]
    assert_same_run(tmp_path / "once", tmp_path / "twice")


def assert_same_run(one, other):
    """Check that the runs in two folders have the same weights and, apart from seconds, the same log."""
    results = []
    for folder in (one, other):
        files = sorted(folder.glob("*.safetensors"))
        saved = {f"{file.name}: {name}": each for file in files for name, each in flat(load_state(file))}
        results.append((saved, [{**row, "seconds": 0} for row in RunFolder(folder).metrics()]))
    (weights, log), (other_weights, other_log) = results
    assert log == other_log
    assert weights.keys() == other_weights.keys()
    assert weights
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def flat(state, prefix=""):
    """Yield the tensors of a nested state by their paths."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield prefix + name, value


@pytest.mark.integration
def test_a_command_tells_its_time_and_writes_a_trace_of_each_phase(tmp_path, run_here):
    stages = [*SMALL_RUN, "device.precision=32-true"]
    for command, phases, parts, own in (
        ("stage", ("stage1", "stage2"), {"data", "forward", "backward", "pictures"}, []),
        ("finetune", ("finetune",), {"data", "forward", "backward", "checks"}, RECIPE),
        ("probe", (), {"forward", "preparation"}, ["labels=40"]),
    ):
        result = run_here(tmp_path, command, *stages, *own, f"out={command}", "profile=true")
        assert result.returncode == 0, result.stderr
        wall, seconds = told(result.stdout)
        assert parts <= seconds.keys()
        # The smallest parts are not listed.
        assert abs(sum(seconds.values()) - wall) <= 0.01 * wall + ROUNDING * (len(seconds) + 1)
        assert seconds.get(UNNAMED, 0) < wall / 2
        folder = tmp_path / command
        assert {file.name for file in folder.glob("trace*")} == {f"trace-{phase}.json.gz" for phase in phases}
        for phase in phases:
            names = events(folder / f"trace-{phase}.json.gz")
            assert {"data", "forward", "backward", "optimizer", "logging", "checks"} <= names.keys()
        assert [line for line in result.stderr.splitlines() if "a trace of steps up to" not in line] == []


@pytest.mark.integration
def test_a_trace_belongs_to_the_run_but_may_be_deleted(tmp_path, run_here):
    options = [*SMALL_RUN, "upto=2", "out=run"]
    assert run_here(tmp_path, "stage", *options, "profile=true").returncode == 0
    folder = RunFolder(tmp_path / "run")
    folder.check()
    assert not [name for name in folder.summary()["files"] if name.startswith("trace")]
    again = run_here(tmp_path, "stage", *options, "profile=true")
    assert again.stderr == "note: the run in run is complete, so nothing is left to profile: give another out=.\n"
    (tmp_path / "run" / "trace-stage1.json.gz").unlink()
    assert run_here(tmp_path, "stage", *options).returncode == 0
    fresh = run_here(tmp_path, "stage", *options, "seed=1", "overwrite=true")
    assert fresh.returncode == 0, fresh.stderr
    assert [*(tmp_path / "run").glob("trace*")] == []
