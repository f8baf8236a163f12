"""What a run starts from: its folder, bound to settings and images, and the trained stages that it uses."""

import hashlib
import sys
from typing import Any

from lightning_fabric import Fabric

from pretrain.data import Dataset
from pretrain.device import first_then_others, precision_of
from pretrain.errors import UserError, choose
from pretrain.runs import Config, RunFolder, differences, first_few

# Settings in which a run may go on with other values: where things are, and what changes no more than rounding.
HOUSEKEEPING = (
    "stages",  # where they are: a digest says which
    "out",
    "overwrite",
    "jobs",
    "worker",
    "device.accelerator",
    "device.threads",
    "data.cache",
    "data.download",
)


def open_run(config: Config, data: Dataset, fabric: Fabric, ignore: tuple[str, ...] = ()) -> RunFolder:
    """Open the folder ``config["out"]``, bound to the content of `data`; the settings in `ignore` may differ."""
    device = {**config["device"], "precision": precision_of(fabric)}  # not auto: what it is here
    digests = {"data_digest": data.digest, "labelled_digest": data.labelled_digest}
    config = {**config, **digests, "device": device}
    ignored, writes = (*HOUSEKEEPING, *ignore), fabric.global_rank == 0
    return first_then_others(
        fabric,
        lambda: RunFolder.open(config["out"], config, overwrite=config["overwrite"], ignore=ignored, writes=writes),
    )


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
