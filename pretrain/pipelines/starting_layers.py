"""The trained stages that a run starts from, and their cost."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pretrain.data.dataset import Dataset
from pretrain.errors import UserError
from pretrain.network.convnet import ConvNet
from pretrain.pipelines.run_settings import NetworkRun
from pretrain.runs.progress import complain
from pretrain.runs.resumption import differences, first_few
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.typed_settings import as_config, may_differ
from pretrain.stages.convnet_assembly import assemble
from pretrain.training.greedy_pretraining import load_stack
from pretrain.training.stack_building import build_stack


@dataclass(frozen=True)
class StartingLayers:
    """The cost of the layers that a run starts from, and their digest, None for layers from scratch."""

    seconds: float = 0.0
    flops: int = 0
    digest: str | None = None


def starting_layers(settings: NetworkRun, data: Dataset, upto: int | None = None) -> StartingLayers:
    """Return the cost of the layers to start from, or of the first `upto` of them, and their digest.

    The run that trained them must be complete and have the same stack. If it was trained on other images than `data`,
    this prints a note.

    Raises
    ------
    UserError
        When the run is incomplete or has another stack.
    """
    if not settings.pretrained:
        return StartingLayers()
    assert settings.stages is not None
    folder = RunFolder(Path(settings.stages))
    there = folder.config()
    if differing := differences({"stack": there["stack"]}, {"stack": as_config(settings.stack)}):
        raise UserError(f"stages={settings.stages} was trained with another stack: {first_few(differing)}.")
    if not (folder.path / "stack.pt").exists():
        raise UserError(f"stages={settings.stages} holds no trained stages: give a run of python -m pretrain.stage.")
    summary = folder.summary()
    if summary is None:
        raise UserError(f"stages={settings.stages} is not complete: run its python -m pretrain.stage again.")
    others = differences(there["data"], as_config(settings.data), may_differ(settings.data))
    if not others and there.get("data_digest") != data.digest:
        others = ["the images have changed since, and may have included the present validation and test images"]
    if others:
        complain(f"note: stages={settings.stages} was trained on other data: {first_few(others)}")
    digest = hashlib.blake2b((folder.path / "stack.pt").read_bytes(), digest_size=8).hexdigest()
    seconds, flops = summary["stage_seconds"][:upto], summary["stage_flops"][:upto]
    return StartingLayers(round(sum(seconds), 3), sum(flops), digest)


def starting_network(settings: NetworkRun, data: Dataset, upto: int | None = None) -> ConvNet:
    """Return the network to start from, with its first `upto` layers pretrained or all from scratch."""
    stack = build_stack(settings.stack, data.unlabelled, settings.seed).stack
    if settings.stages:
        load_stack(stack, RunFolder(Path(settings.stages)))
    return assemble(
        stack,
        data.classes,
        seed=settings.seed,
        pretrained=settings.pretrained,
        upto=upto,
        unlabelled=data.unlabelled,
    )
