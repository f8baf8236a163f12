"""Every experiment says what it is for and can be run as it stands."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from pretrain import Comparison
from pretrain.command_line.command import CONF, plain
from pretrain.comparison.tasks import FinetuningTask
from pretrain.comparison.workers import Worker
from pretrain.runs.typed_settings import typed

FOLDER = CONF / "experiment"
EXPERIMENTS = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))
REPORTS = sorted((Path(__file__).parents[1] / "runs" / "reference").glob("*/report.html"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return the settings for a folder with a few images."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for k in range(10):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{k}.png")
    return ["data=folder", f"data.root={folder}", "data.cache=null", "data.validation=4"]


def experiment(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(Comparison, plain(compose("compare", overrides=[f"experiment={name}", *overrides])))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_file_begins_with_purpose_command_expected_result_and_time(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    heads = [line.split()[1] for line in lines if line.startswith("# ") and not line.startswith("#  ")]
    assert heads[:5] == ["@package", "Purpose", "Command", "Expected", "Time"]
    command = next(line for line in lines if line.startswith("# Command"))
    assert f"python -m pretrain.compare experiment={name} " in command
    # An expected result with numbers shows that the experiment has been run.
    assert re.search(r"[0-9]%", "".join(lines).split("# Expected")[1].split("# Time")[0])


@pytest.mark.integration
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_arms_share_one_network_and_their_settings_are_known(name, photos, tmp_path):
    config = experiment(name, *([] if name == "digits" else photos), "labels=[10]", f"out={tmp_path / 'run'}")
    # The folder has fewer images than the arms ask for.
    few = {name: replace(arm, num_unlabelled=arm.num_unlabelled and 4) for name, arm in config.arms.items()}
    config = replace(config, arms=few)
    arms = {task.arm for task in Worker(config, started=0.0).needs if isinstance(task, FinetuningTask)}
    assert arms == {*config.arms}


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_a_published_report_shows_no_image_of_the_data(report):
    """The images belong to others, and reconstructions are shown beside the images that they reconstruct."""
    assert re.search(r'alt="[^"]*reconstructions"', report.read_text()) is None
