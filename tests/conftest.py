import os

# Tiny models: more threads would only get in each other's way. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

import pretrain
from pretrain.command_line.command import CONF, plain
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.runs.settings import typed

SETTINGS = {"stage": StageRun, "finetune": FinetuningRun, "probe": ProbeRun, "compare": pretrain.Comparison}

# A stack that trains in a moment.
SMALL = [
    "stack.stages.stage1.out_channels=6",
    "stack.stages.stage2.out_channels=8",
    "stack.stages.stage1.training.steps=6",
    "stack.stages.stage2.training.steps=6",
    "device.accelerator=cpu",
    "device.threads=1",
]


@pytest.fixture(scope="session")
def fabric():
    """Float32 on the CPU, so that results do not depend on the machine."""
    return pretrain.Device(accelerator="cpu", precision="32-true", threads=1).launch()


@pytest.fixture(scope="session")
def digits():
    return pretrain.load_digits()


@pytest.fixture
def stack(digits):
    torch.manual_seed(0)
    stages = [pretrain.ConvAutoencoder(1, 8, kernel_size=3), pretrain.ConvAutoencoder(8, 12, kernel_size=3)]
    return pretrain.Stack(stages, digits.unlabelled)


@pytest.fixture(scope="session")
def configure():
    """Return a function from a command's name and overrides to its settings, as the command line gives them."""

    def compose(name, *overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return typed(SETTINGS[name], plain(hydra_compose(name, overrides=[*SMALL, *overrides])))

    return compose
