"""The story of one run in its folder: training a stack, and fine-tuning an assembled network."""

from typing import Any

import torch
from lightning_fabric import Fabric

from pretrain import pictures
from pretrain.config import StackPlan, build_stack, finetuning_settings
from pretrain.data import Dataset
from pretrain.device import first_then_others
from pretrain.errors import UserError
from pretrain.finetuning import Result, finetune
from pretrain.greedy import fit_stages, load_stack
from pretrain.network import ConvNet, assemble
from pretrain.runs import Config, RunFolder, differences
from pretrain.seeding import generator
from pretrain.stack import Stack

# Settings that do not change what is computed.
HOUSEKEEPING = ("out", "overwrite", "device", "data.cache", "data.download")
PICTURED = 8  # images in the pictures of reconstructions


def run_stages(config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Train the stages of a stack, or go on with them, in the folder ``config["out"]``.

    Returns
    -------
    dict
        The run's summary, as in summary.json; of the stages so far, where not all are trained.
    """
    folder = open_run(config, fabric, ignore=("upto", "labels"))
    if summary := folder.summary():
        return summary
    folder.write_skipped(data.skipped)
    plan = build_stack(config["stack"], data.unlabelled, config["seed"])
    upto = config.get("upto") or len(plan.stack)
    if not 1 <= upto <= len(plan.stack):
        raise UserError(f"upto={upto}: the stack has {len(plan.stack)} stages.")
    for count in range(load_stack(plan.stack, folder), upto + 1):
        fit_stages(
            plan.stack,
            data.unlabelled,
            plan.training,
            seed=config["seed"],
            upto=count,
            fabric=fabric,
            folder=folder,
        )
        _draw_stage(plan.stack, count, data, folder)
    summary = _stages_summary(config, plan, data, folder)
    if summary["stages"] == len(plan.stack):
        folder.write_summary(summary)
    fabric.barrier()
    return summary


def _draw_stage(stack: Stack, count: int, data: Dataset, folder: RunFolder) -> None:
    """Draw the filters of the last of the first `count` stages, and reconstructions through all of these."""
    if count == 0 or not folder.writes:
        return
    stack = stack.cpu().eval()
    draw = torch.randperm(len(data.unlabelled), generator=generator(0, "pictures"))[:PICTURED]
    pictures.save(pictures.filters(stack, count), folder.path / f"stage{count}-filters.png")
    try:
        figure = pictures.reconstructions(stack, data.unlabelled[draw], count)
    except NotImplementedError:
        return
    pictures.save(figure, folder.path / f"stage{count}-reconstructions.png")


def _stages_summary(config: Config, plan: StackPlan, data: Dataset, folder: RunFolder) -> dict[str, Any]:
    """Gather what the log says of the stages trained so far."""
    last = {row["phase"]: row for row in folder.metrics()}
    stages = [last[f"stage {k}"] for k in range(1, len(plan.stack) + 1) if f"stage {k}" in last]
    drawn = [training.steps * min(training.batch_size, len(data.unlabelled)) for training in plan.training]
    seconds = [row["seconds"] for row in stages]
    return {
        "stack": config["stack"]["name"],
        "seed": config["seed"],
        "stages": len(stages),
        "unlabelled": len(data.unlabelled),
        "skipped": len(data.skipped),
        "pretrain_seconds": round(sum(seconds), 3),
        "images": sum(drawn[: len(stages)]),
        "images_per_second": [round(d / s, 1) for d, s in zip(drawn, seconds, strict=False)],
        "last": [{k: v for k, v in row.items() if k not in ("phase", "step", "seconds")} for row in stages],
    }


def run_finetune(config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Fine-tune an assembled network in the folder ``config["out"]``; a complete run is left as it is.

    Returns
    -------
    dict
        The run's summary, as in summary.json.
    """
    settings = finetuning_settings(config["finetuning"])
    pretrained = config["init"] == "pretrained"
    if config["init"] not in ("pretrained", "scratch"):
        raise UserError(f"init={config['init']} is not known; choose one of scratch, pretrained.")
    stages = _finished_stages(config) if pretrained else {"pretrain_seconds": 0.0}
    folder = open_run(config, fabric)
    if summary := folder.summary():
        return summary
    folder.write_skipped(data.skipped)
    stack = build_stack(config["stack"], data.unlabelled, config["seed"]).stack
    if pretrained:
        load_stack(stack, RunFolder(config["stages"]))
    network = assemble(stack, data.classes, seed=config["seed"], pretrained=pretrained, unlabelled=data.unlabelled)
    result = finetune(
        network,
        data,
        labels=None if config["labels"] == "all" else _count(config["labels"]),
        seed=config["seed"],
        settings=settings,
        fabric=fabric,
        folder=folder,
    )
    network = network.cpu()
    if folder.writes:
        network.save(folder.path / "network.pt")
        _draw_finetuning(network, result, folder)
    summary = {
        "arm": config.get("arm") or arm_name(pretrained, settings.freeze),
        "init": config["init"],
        "stack": config["stack"]["name"],
        "labels": len(data.train) if config["labels"] == "all" else config["labels"],
        "seed": config["seed"],
        "val_accuracy": result.validation.accuracy if result.validation else None,
        "test_accuracy": result.test.accuracy,
        "pretrain_seconds": stages["pretrain_seconds"],
        "finetune_seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 1),
        "steps": result.steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "per_class_accuracy": result.test.per_class,
        "confusion": result.test.confusion.tolist(),
    }
    folder.write_summary(summary)
    fabric.barrier()
    return summary


def arm_name(pretrained: bool, frozen: bool) -> str:
    """Return the usual name of an arm."""
    if frozen:
        return "pretrained-frozen" if pretrained else "random-frozen"
    return "pretrained" if pretrained else "scratch"


def _count(labels: Any) -> int:
    if not isinstance(labels, int):
        raise UserError(f"labels={labels}: give a number, or all.")
    return labels


def open_run(config: Config, fabric: Fabric, ignore: tuple[str, ...] = ()) -> RunFolder:
    """Open the folder ``config["out"]``, where the settings in `ignore` may differ."""
    ignored, writes = (*HOUSEKEEPING, *ignore), fabric.global_rank == 0
    return first_then_others(
        fabric,
        lambda: RunFolder.open(config["out"], config, overwrite=config["overwrite"], ignore=ignored, writes=writes),
    )


def _finished_stages(config: Config) -> dict[str, Any]:
    """Return the summary of the run that trained the stages, if it is complete and of the same stack.

    Raises
    ------
    UserError
        When it is not.
    """
    if not config["stages"]:
        raise UserError("init=pretrained needs trained stages: give stages=DIR, a run of python -m pretrain.stage.")
    folder = RunFolder(config["stages"])
    differing = differences({"stack": folder.config()["stack"]}, {"stack": config["stack"]})
    if differing:
        raise UserError(f"stages={config['stages']} is of another stack: {'; '.join(differing)}.")
    summary = folder.summary()
    if summary is None:
        raise UserError(f"stages={config['stages']} is not complete: run python -m pretrain.stage on it again.")
    return summary


def _draw_finetuning(network: ConvNet, result: Result, folder: RunFolder) -> None:
    pictures.save(pictures.confusion(result.test, network.classes), folder.path / "confusion.png")
    pictures.save(pictures.learning_curves(folder.metrics()), folder.path / "learning-curves.png")
