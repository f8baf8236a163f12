import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain import Callback, RunFolder, Training
from pretrain.runs.interruption import ENDING, Interruption, deferred_signals, signals_end_the_process, stop_if_asked
from pretrain.training.checkpointing import Checkpointing
from pretrain.training.optimizers import build_optimizer
from pretrain.training.schedules import Schedule
from pretrain.training.trainer import Trainer


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """Take signals as a command in a terminal does: jobs in the background ignore some, and so does what they start."""
    before = {each: signal.signal(each, signal.SIG_DFL) for each in ENDING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_block_and_its_handler_is_put_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Interruption) as interruption, signals_end_the_process():
        signal.raise_signal(number)
    assert interruption.value.status == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_that_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_end_the_process():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def deferred(*actions, patient=False):
    """Return how many of some actions are reached while signals are deferred, and whether the block is interrupted."""
    reached = 0
    try:
        with signals_end_the_process(patient=patient), deferred_signals():
            for action in actions:
                action()
                reached += 1
    except Interruption:
        return reached, True
    return reached, False


def test_a_deferred_signal_waits_and_a_second_one_does_not():
    def send():
        signal.raise_signal(signal.SIGTERM)

    assert deferred(stop_if_asked) == (1, False)
    assert deferred(send, stop_if_asked, stop_if_asked) == (1, True)
    assert deferred(send, send, send) == (1, True)


def test_a_deferred_signal_takes_effect_at_the_end_of_the_block_and_is_then_forgotten():
    with pytest.raises(Interruption), signals_end_the_process(), deferred_signals():
        signal.raise_signal(signal.SIGTERM)
    with deferred_signals():
        stop_if_asked()


def test_an_error_does_not_make_a_waiting_signal_forgotten():
    def diverge():
        raise ValueError

    assert deferred(lambda: signal.raise_signal(signal.SIGTERM), diverge) == (1, True)


def test_a_worker_waits_to_save_however_many_signals_come():
    sends = [lambda number=number: signal.raise_signal(number) for number in (signal.SIGHUP, signal.SIGTERM)]
    assert deferred(*sends, *sends, patient=True) == (4, True)


class Signal(Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer, metrics):
        if trainer.step == self.step:
            signal.raise_signal(signal.SIGTERM)


def train(folder, fabric, *callbacks):
    module = nn.Linear(2, 1, bias=False)
    module.load_state_dict({"weight": torch.ones(1, 2)})

    def compute(step):
        module.weight.grad = module.weight.detach() + step
        return {"loss": float(step)}

    training = Training(steps=9, optimizer="sgd", learning_rate=0.1, momentum=0.9)
    optimizer = build_optimizer([{"params": [module.weight], "schedule": Schedule(training)}], training)
    callbacks = [Checkpointing(folder, every=1e9), *callbacks]
    run = Trainer(
        name="x",
        module=module,
        optimizer=optimizer,
        training=training,
        compute_gradients=compute,
        seed=0,
        fabric=fabric,
        callbacks=callbacks,
    )
    with signals_end_the_process():
        run.fit()
    return module.weight.detach()


def test_a_signal_saves_the_step_that_is_done_and_the_run_resumes_from_it_to_the_same_bits(fabric, tmp_path):
    whole = train(RunFolder.open(tmp_path / "whole", {}), fabric)
    folder = RunFolder.open(tmp_path / "parts", {})
    for step in (4, 7):
        with pytest.raises(Interruption):
            train(folder, fabric, Signal(step))
        assert folder.load("checkpoint")["step"] == step
    assert torch.equal(train(folder, fabric), whole)


def command(*arguments):
    return [sys.executable, "-m", *arguments, "device.threads=1"]


def wait_for(condition, seconds=120.0):
    """Wait for a process to get somewhere."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_a_line_and_a_checkpoint(tmp_path, number):
    arguments = [
        "pretrain.stage",
        "stack=cae_small",
        "stack.stages.stage1.training.steps=100000",
        f"out={tmp_path}/run",
    ]
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True) as process:
        wait_for((tmp_path / "run/metrics.jsonl").exists)
        process.send_signal(number)
        _, printed = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert printed.splitlines()[-1] == "interrupted; run the same command again to resume"
    assert "Traceback" not in printed
    assert (tmp_path / "run/checkpoint.safetensors").exists()


@pytest.mark.integration
def test_ctrl_c_while_a_command_loads_is_no_traceback(tmp_path):
    for seconds in (0.05, 0.2, 0.5, 1.5):
        with subprocess.Popen(command("pretrain.stage", f"out={tmp_path}/run"), stderr=subprocess.PIPE) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, printed = process.communicate(timeout=120)
        assert process.returncode in (-signal.SIGINT, 130)
        assert b"Traceback" not in printed or b"<frozen" in printed  # before Python has loaded itself


def children(pid):
    """Return the processes that a process has started, as Linux lists them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the children of a process are listed by Linux alone")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(tmp_path, number):
    arguments = ["stack.stages.stage1.training.steps=100000", "jobs=3", "labels=[20]", f"out={tmp_path}/run"]
    with subprocess.Popen(command("pretrain.compare", *arguments), stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len([*tmp_path.glob("run/stages/*/metrics.jsonl")]) == 3)
        workers = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 2
        os.kill(process.pid, number)
        printed = process.stderr.read()
    wait_for(lambda: not any(map(alive, workers)), seconds=30)
    assert "Traceback" not in printed
    states = [*tmp_path.glob("run/stages/*/checkpoint.safetensors")]
    # A process that is killed saves nothing more.
    assert len(states) == 3 or (len(states) == 2 and number == signal.SIGKILL)


@pytest.mark.integration
def test_a_reader_that_has_seen_enough_is_no_error():
    pipeline = f"{sys.executable} -m pretrain.describe stack=cae_small | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", pipeline], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == "0"
