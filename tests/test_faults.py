"""Each file operation of a run fails, is torn, or is the last one before the process dies; the same call goes on."""

import errno
import json
import os
import sys
import traceback
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from pretrain import RunFolder, run_comparison, write_report
from pretrain.errors import UserError
from pretrain.pipelines.network_finetuning import run_finetune
from pretrain.pipelines.stage_training import run_stages
from pretrain.runs.tensor_files import load_with_digest
from pretrain.training.checkpointing import Checkpointing

pytestmark = pytest.mark.integration

# Names of the audit events of Python that announce an operation on a file, whose path comes first.
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.listdir", "os.scandir")
DIED, ENDED, REFUSED, BROKE = 9, 0, 2, 3  # exit statuses of the process with a fault
SECONDS = ("pretrain_seconds", "finetune_seconds", "images_per_second")


class Fault:
    """Counts the operations on files below a folder, and does harm at one of them."""

    def __init__(self, folder, at=None, harm=None):
        self.folder, self.at, self.harm, self.count = str(folder), at, harm, 0

    def __call__(self, event, arguments):
        if event not in OPERATIONS or not str(arguments[0]).startswith(self.folder):
            return
        self.count += 1
        if self.count != self.at:
            return
        if self.harm == "fail":
            raise OSError(errno.EIO, "Input/output error", str(arguments[0]))
        if self.harm == "full":
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
        if self.harm == "tear" and event == "os.rename":
            # The power fails after a rename, and half of the content is lost.
            os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            # Cutting the file is an operation that is announced as well.
            self.at = self.count + 1
            self.harm = "die"
            return
        os._exit(DIED)


def in_another_process(call, folder, at=None, harm=None):
    """Return the exit status of a copy of this process that makes a call with a fault, and the operations counted."""
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        with os.fdopen(read) as stream:
            text = stream.read()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text
    fault = Fault(folder, at, harm)
    sys.addaudithook(fault)
    # Checkpoints are saved at every step.
    Checkpointing.__init__.__defaults__ = (0.0,)
    try:
        call()
        status, text = ENDED, str(fault.count)
    except (UserError, OSError) as error:
        status, text = REFUSED, str(error)
    except BaseException:
        status, text = BROKE, traceback.format_exc()
    with os.fdopen(write, "w") as stream:
        stream.write(text)
    os._exit(status)


def check_each_operation(call, folder, result, every, harm):
    """Do harm at each operation in turn, call again without, and compare the result with that of a call in peace."""
    status, text = in_another_process(lambda: call(folder("whole")), folder("whole"))
    assert status == ENDED, text
    expected, operations, outcomes = result(folder("whole")), int(text), Counter()
    for at in range(every // 2 + 1, operations + 1, every):
        out = folder(f"at-{at}")
        status, text = in_another_process(lambda: call(out), out, at, harm)  # noqa: B023
        assert status != BROKE, text
        assert status != REFUSED or len(text.splitlines()) == 1, text
        again, text = in_another_process(lambda: call(out), out)  # noqa: B023
        assert again == ENDED, f"{harm} at operation {at}: {text}"
        assert result(out) == expected, f"{harm} at operation {at}"
        outcomes[status] += 1
    assert outcomes
    print(f"{harm}, {operations} operations: {outcomes[DIED]} died, {outcomes[REFUSED]} ended in a line, rest complete")


def plain_summary(out):
    """Return a summary without what is measured in seconds, and without the digests of pictures and records."""
    summary = RunFolder(out).summary()
    timed = ("files", "stage_seconds", *SECONDS)
    return json.dumps({key: value for key, value in summary.items() if key not in timed}, sort_keys=True)


def weights(file):
    state, _ = load_with_digest(file)
    state.pop("bound", None)
    return json.dumps(state, sort_keys=True, default=lambda tensor: tensor.flatten().tolist())


def logged(out):
    return [{**row, "seconds": None} for row in RunFolder(out).metrics()]


HARMS = ["die", "fail", "full", "tear"]


def operations(sample, many):
    """Sample the operations in every run of the tests, and take many of them in the slow ones."""
    each = [sample, pytest.param(many, marks=pytest.mark.slow)]
    return lambda test: pytest.mark.parametrize("harm", HARMS)(
        pytest.mark.parametrize("every", each, ids=["few", "many"])(test)
    )


@operations(37, 9)
def test_a_stage_run_survives_a_fault_at_each_operation(tmp_path, configure, digits, fabric, every, harm):
    steps = [f"stack.stages.stage{k}.training.steps=3" for k in (1, 2)]

    def call(out):
        run_stages(configure("stage", f"out={out}", *steps), digits, fabric)

    def result(out):
        return plain_summary(out), weights(out / "stack.safetensors"), logged(out)

    check_each_operation(call, lambda name: tmp_path / name, result, every, harm)


@operations(23, 6)
def test_fine_tuning_survives_a_fault_at_each_operation(tmp_path, configure, digits, fabric, every, harm):
    def call(out):
        options = ["labels=20", "recipe.steps=3", "recipe.evaluate_every=2"]
        run_finetune(configure("finetune", f"out={out}", *options), digits, fabric)

    def result(out):
        return plain_summary(out), weights(out / "network.safetensors"), logged(out)

    check_each_operation(call, lambda name: tmp_path / name, result, every, harm)


@operations(250, 80)
def test_a_comparison_survives_a_fault_at_each_operation(tmp_path, configure, every, harm):
    steps = [f"stack.stages.stage{k}.training.steps=2" for k in (1, 2)]
    options = [*steps, "labels=[20]", "seeds=[0]", "recipe.steps=2", "data.cache=null"]

    def call(out):
        failures = run_comparison(configure("compare", f"out={out}", *options))
        write_report(out)
        if failures:
            raise UserError(failures[0])

    def result(out):
        return pd.read_csv(out / "results.csv").drop(columns=[*SECONDS]).to_csv()

    check_each_operation(call, lambda name: tmp_path / name, result, every, harm)


def test_the_audit_events_are_those_of_this_python(tmp_path):
    fault = Fault(tmp_path)
    sys.addaudithook(fault)
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "file"
    file.write_text("text")
    os.truncate(file, 2)
    file.replace(tmp_path / "b")
    (tmp_path / "b").unlink()
    [*Path(tmp_path).iterdir()]
    assert fault.count == 6
