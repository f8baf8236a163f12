import os

# Tiny models: more threads would only get in each other's way. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

import pretrain
from pretrain.command_line.command import CONF, plain

# A stack that trains in a moment.
SMALL = [
    "stack.stages.stage1.layer.out_channels=6",
    "stack.stages.stage2.layer.out_channels=8",
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
    stages = [pretrain.ConvAutoencoder(pretrain.Layer(1, 8)), pretrain.ConvAutoencoder(pretrain.Layer(8, 12))]
    return pretrain.Stack(stages, digits.unlabelled)


@pytest.fixture(scope="session")
def configure():
    """Return a function from a command's name and overrides to its configuration, as the command line gives it."""

    def compose(name, *overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return plain(hydra_compose(name, overrides=[*SMALL, *overrides]))

    return compose
