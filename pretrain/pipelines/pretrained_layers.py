"""The trained stages that a run starts from, and what they cost."""

import hashlib
import sys
from typing import Any

from pretrain.data.dataset import Dataset
from pretrain.errors import UserError, choose
from pretrain.network.convnet import ConvNet
from pretrain.runs.resumption import HOUSEKEEPING, differences, first_few
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.settings import Config
from pretrain.stages.assembly import assemble
from pretrain.training.greedy import load_stack
from pretrain.training.stack_settings import build_stack


def stages_to_start_from(config: Config, data: Dataset) -> dict[str, Any]:
    """Return what the layers to start from cost, and their digest; of layers from scratch, that they cost nothing.

    Raises
    ------
    UserError
        When pretrained layers are asked for and there are none, or they are of another stack.
    """
    choose("init", config["init"], ("scratch", "pretrained"))
    if config["init"] == "pretrained":
        return _finished_stages(config, data)
    if given := [key for key in ("stages", "upto") if config.get(key) is not None]:
        raise UserError(f"{given[0]}={config[given[0]]} is of pretrained layers: give init=pretrained with it.")
    return {"pretrain_seconds": 0.0, "pretrain_flops": 0, "digest": None}


def _finished_stages(config: Config, data: Dataset) -> dict[str, Any]:
    """Return what the stages that are to be used cost, and a digest of them all.

    The run must be complete and of the same stack. That it saw other images than `data` is said, but allowed.

    Raises
    ------
    UserError
        When it is not.
    """
    if not config["stages"]:
        raise UserError("init=pretrained needs trained stages: give stages=DIR, a run of python -m pretrain.stage.")
    folder = RunFolder(config["stages"])
    there = folder.config()
    differing = differences({"stack": there["stack"]}, {"stack": config["stack"]})
    if differing:
        raise UserError(f"stages={config['stages']} is of another stack: {first_few(differing)}.")
    summary = folder.summary()
    if summary is None:
        raise UserError(f"stages={config['stages']} is not complete: run python -m pretrain.stage on it again.")
    others = differences({"data": there["data"]}, {"data": config["data"]}, HOUSEKEEPING)
    if not others and there.get("data_digest") != data.digest:
        others = ["the images have changed since, and those that judge this run may have been among them"]
    if others:
        print(f"note: stages={config['stages']} were trained on other data: {first_few(others)}", file=sys.stderr)
    digest = hashlib.blake2b((folder.path / "stack.pt").read_bytes(), digest_size=8).hexdigest()
    used = config.get("upto")  # None: all
    return {
        "pretrain_seconds": round(sum(summary["stage_seconds"][:used]), 3),
        "pretrain_flops": sum(summary["stage_flops"][:used]),
        "digest": digest,
    }


def starting_network(config: Config, data: Dataset) -> ConvNet:
    """Return the network of trained stages, or the same one from scratch."""
    pretrained, seed = config["init"] == "pretrained", config["seed"]
    stack = build_stack(config["stack"], data.unlabelled, seed).stack
    if pretrained:
        load_stack(stack, RunFolder(config["stages"]))
    options = {"pretrained": pretrained, "upto": config.get("upto"), "unlabelled": data.unlabelled}
    return assemble(stack, data.classes, seed=seed, **options)
