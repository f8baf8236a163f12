"""Random damage to the files of runs: a reader refuses them in a line, or gives what an undamaged file gives."""

import random
import shutil
from collections import Counter

import pytest

from pretrain import ConvNet, RunFolder, UserError
from pretrain.pipelines.network_finetuning import run_finetune
from pretrain.pipelines.stage_training import run_stages
from pretrain.pipelines.starting_layers import starting_layers, starting_network

KINDS = ("flip a bit", "cut", "delete", "empty", "garble", "double", "insert")


def damage(file, kind, draw):
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    if kind == "delete":
        file.unlink()
        return
    if kind == "flip a bit":
        content[place] ^= 1 << draw.randrange(8)
    elif kind == "garble":
        content[place : place + 40] = draw.randbytes(40)
    elif kind == "insert":
        content[place:place] = draw.randbytes(1)
    file.write_bytes({"cut": content[:place], "empty": b"", "double": content * 2}.get(kind, content))


def bits(network):
    return {name: value.tolist() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, configure, digits, fabric):
    """Return the folder of a pretraining, and the settings of a fine-tuning of it, which is complete."""
    out = tmp_path_factory.mktemp("runs")
    run_stages(configure("stage", f"out={out / 'stages'}"), digits, fabric)
    options = [f"out={out / 'ft'}", "init=pretrained", f"stages={out / 'stages'}", "labels=20", "recipe.steps=2"]
    settings = configure("finetune", *options)
    run_finetune(settings, digits, fabric)
    return out, settings


@pytest.mark.integration
@pytest.mark.parametrize("cases", [60, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["stages", "ft"])
def test_damage_to_a_run_is_refused_or_changes_nothing(runs, digits, fabric, tmp_path, name, cases):
    out, settings = runs

    def read_stages():
        layers = starting_layers(settings, digits)
        return layers, bits(starting_network(settings, digits, layers))

    def read_network():
        summary = run_finetune(settings, digits, fabric)
        return summary["test_accuracy"], bits(ConvNet.load(RunFolder(out / "ft").checked("network.safetensors")))

    read = read_stages if name == "stages" else read_network
    whole, folder, draw, outcomes = read(), out / name, random.Random(0), Counter()
    shutil.copytree(folder, tmp_path / "whole")
    files = sorted(file.name for file in folder.iterdir() if file.name != ".lock")
    for _ in range(cases):
        file, kind = draw.choice(files), draw.choice(KINDS)
        damage(folder / file, kind, draw)
        try:
            assert read() == whole, (file, kind)
            outcomes["as it was"] += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            outcomes["refused"] += 1
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)
    print(f"{name}: {dict(outcomes)}")
    assert outcomes["refused"]
