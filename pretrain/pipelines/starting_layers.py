"""The trained stages that a run starts from, and their cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.data.dataset import Dataset
from pretrain.data.fingerprints import prints_of_bytes
from pretrain.data.leakage_check import Learned, check_learned
from pretrain.errors import UserError
from pretrain.network.convnet import ConvNet
from pretrain.pipelines.run_settings import POOL, NetworkRun
from pretrain.runs.progress import complain
from pretrain.runs.resumption import differences, first_few
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.tensor_files import SUFFIX, load_state, load_with_digest
from pretrain.runs.typed_settings import as_config, may_differ
from pretrain.stages.convnet_assembly import assemble
from pretrain.training.greedy_pretraining import load_stack
from pretrain.training.stack_building import build_stack


@dataclass(frozen=True)
class StartingLayers:
    """The cost of the layers that a run starts from, their digest and their state; None for those from scratch.

    `learned` is what they learned from of the validation and test images; None where they learned from the same data.
    """

    seconds: float = 0.0
    flops: int = 0
    digest: str | None = None
    state: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    learned: Learned | None = None


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
    there, summary = folder.config(), folder.summary()
    _refuse_other_runs(folder.path, summary)
    if differing := differences({"stack": there.get("stack")}, {"stack": as_config(settings.stack)}):
        raise UserError(f"stages={settings.stages} was trained with another stack: {first_few(differing)}.")
    if summary is None:
        raise UserError(f"stages={settings.stages} is not complete: run its python -m pretrain.stage again.")
    # The run wrote this file, as its summary says.
    state, digest = load_with_digest(folder.checked(f"stack{SUFFIX}"))
    others = differences(there["data"], as_config(settings.data), may_differ(settings.data))
    if not others and there.get("data_digest") != data.digest:
        others = ["the images have changed since"]
    learned = _check_learned(folder, summary, data) if others else None
    if others:
        found = learned or "they may have included validation and test images of now"
        complain(f"note: stages={settings.stages} was trained on other data: {first_few(others)}; {found}")
    seconds, flops = summary["stage_seconds"][:upto], summary["stage_flops"][:upto]
    return StartingLayers(round(sum(seconds), 3), sum(flops), digest, state, learned)


def _check_learned(folder: RunFolder, summary: Mapping[str, Any], data: Dataset) -> Learned | None:
    """Search the images that stages learned from for validation and test images, if the run remembers them."""
    if data.judged is None or POOL not in summary.get("files", {}):
        return None
    rows = load_state(folder.checked(POOL))["fingerprints"]
    return check_learned(prints_of_bytes(rows.numpy()), data.judged())


def _refuse_other_runs(path: Path, summary: Mapping[str, Any] | None) -> None:
    """Refuse a folder without trained stages, such as that of fine-tuning or of a comparison."""
    name = f"stack{SUFFIX}"
    if not (path / name).exists() and name not in (summary or {}).get("files", {}):
        inside = sorted(path.glob(f"stages/**/{name}"))
        advice = (
            f"one of its pretrainings, such as {inside[0].parent}" if inside else "a run of python -m pretrain.stage"
        )
        raise UserError(f"stages={path} holds no trained stages (no {name}): give {advice}.")


def starting_network(settings: NetworkRun, data: Dataset, layers: StartingLayers, upto: int | None = None) -> ConvNet:
    """Return the network to start from, with its first `upto` layers pretrained or all from scratch."""
    stack = build_stack(settings.stack, data.unlabelled, settings.seed_of_weights).stack
    if layers.state is not None:
        load_stack(stack, layers.state)
    return assemble(
        stack,
        data.classes,
        seed=settings.seed_of_weights,
        pretrained=settings.pretrained,
        upto=upto,
        unlabelled=data.unlabelled,
    )
