import importlib
import os
import sys
import tempfile
import warnings
from pathlib import Path
from subprocess import CompletedProcess

# More threads would slow tiny models down. This must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import pretrain
from pretrain.command_line.command import CONF, ENVIRONMENT, plain
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.runs.typed_settings import typed

SETTINGS = {"stage": StageRun, "finetune": FinetuningRun, "probe": ProbeRun, "compare": pretrain.Comparison}

# Examples are the same in each run, and none is kept on disk or measured by the clock.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("fixed")

# These overrides make a stack that trains in a moment.
SMALL_RUN = [
    "stack.stages.stage1.layer.out_channels=6",
    "stack.stages.stage2.layer.out_channels=8",
    "stack.stages.stage1.training.steps=6",
    "stack.stages.stage2.training.steps=6",
    "device.accelerator=cpu",
    "device.threads=1",
]
# Python shows these warnings only to developers.
HIDDEN_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


@pytest.fixture(scope="session")
def fabric():
    """Return a Fabric for float32 on the CPU, so that results do not depend on the hardware."""
    return pretrain.Device(accelerator="cpu", precision="32-true", threads=1).launch()


@pytest.fixture(scope="session")
def digits():
    return pretrain.load_digits()


@pytest.fixture
def stack(digits):
    torch.manual_seed(0)
    stages = [pretrain.ConvAutoencoder(pretrain.Layer(1, 8)), pretrain.ConvAutoencoder(pretrain.Layer(8, 12))]
    return pretrain.Stack(stages, digits.unlabelled)


@pytest.fixture
def ordinary_user(tmp_path):
    """Give up the rights of an administrator, who may list and read everything; return a folder to work in."""
    if sys.platform == "win32":
        pytest.skip("Windows has other rights")
    if os.geteuid():
        yield tmp_path
        return
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, nobody, nobody)
        os.seteuid(nobody)
        yield Path(folder)
        os.seteuid(0)


@pytest.fixture(scope="session")
def configure():
    """Return a function that makes the settings of a command from its name and overrides."""

    def compose(name, *overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return typed(SETTINGS[name], plain(hydra_compose(name, overrides=[*SMALL_RUN, *overrides])))

    return compose


def user_environment(home):
    """Return the environment variables of a user whose home folder is `home`."""
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Return a function that runs a command in this process, as a user whose home is `folder`.

    Starting a process takes seconds, and reporting a mistake in its arguments only a moment.
    """

    def run(folder, command, *arguments):
        main = importlib.import_module(f"pretrain.{command}").main
        capsys.readouterr()
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as shown:
            patch.chdir(folder)
            patch.setattr(sys, "argv", [command, *arguments])
            for name, value in user_environment(folder).items():
                patch.setenv(name, value)
            # The command sets these variables, and the patch removes them afterwards.
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            warnings.resetwarnings()
            for hidden in HIDDEN_WARNINGS:
                warnings.simplefilter("ignore", hidden)
            status = _exit_status(main)
        printed = capsys.readouterr()
        warned = "".join(f"{each.category.__name__}: {each.message}\n" for each in shown)
        return CompletedProcess(arguments, status, printed.out, printed.err + warned)

    return run


def _exit_status(main):
    threads = torch.get_num_threads()
    try:
        main()
    except SystemExit as exit:
        return exit.code
    finally:
        GlobalHydra.instance().clear()
        torch.set_num_threads(threads)
    return 0
