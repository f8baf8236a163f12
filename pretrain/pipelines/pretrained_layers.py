"""The trained stages that a run starts from, and what they cost."""

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
from pretrain.runs.settings import as_config, may_differ
from pretrain.stages.assembly import assemble
from pretrain.training.greedy import load_stack
from pretrain.training.stack_building import build_stack


@dataclass(frozen=True)
class StartingLayers:
    """What the layers cost that a run starts from, and a digest of them; None for layers from scratch."""

    seconds: float = 0.0
    flops: int = 0
    digest: str | None = None


def starting_layers(settings: NetworkRun, data: Dataset, upto: int | None = None) -> StartingLayers:
    """Return what the layers to start from cost, the first `upto` of them where it is given.

    The run that trained them must be complete and of the same stack. That it saw other images than `data` is said, but
    allowed.

    Raises
    ------
    UserError
        When it is not.
    """
    if not settings.pretrained:
        return StartingLayers()
    assert settings.stages is not None
    folder = RunFolder(Path(settings.stages))
    there = folder.config()
    if differing := differences({"stack": there["stack"]}, {"stack": as_config(settings.stack)}):
        raise UserError(f"stages={settings.stages} is of another stack: {first_few(differing)}.")
    summary = folder.summary()
    if summary is None:
        raise UserError(f"stages={settings.stages} is not complete: run python -m pretrain.stage on it again.")
    others = differences(there["data"], as_config(settings.data), may_differ(settings.data))
    if not others and there.get("data_digest") != data.digest:
        others = ["the images have changed since, and those that judge this run may have been among them"]
    if others:
        complain(f"note: stages={settings.stages} were trained on other data: {first_few(others)}")
    digest = hashlib.blake2b((folder.path / "stack.pt").read_bytes(), digest_size=8).hexdigest()
    seconds, flops = summary["stage_seconds"][:upto], summary["stage_flops"][:upto]
    return StartingLayers(round(sum(seconds), 3), sum(flops), digest)


def starting_network(settings: NetworkRun, data: Dataset, upto: int | None = None) -> ConvNet:
    """Return the network of trained stages, of which it keeps the first `upto`; or the same one from scratch."""
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
