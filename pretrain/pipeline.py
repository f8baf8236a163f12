"""The story of one run in its folder: training a stack, and fine-tuning or probing an assembled network."""

import math
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pretrain import pictures
from pretrain.config import StackPlan, build_stack, finetuning_settings
from pretrain.data import Dataset
from pretrain.errors import UserError
from pretrain.evaluation import probe
from pretrain.finetuning import Finetuning, Result, finetune
from pretrain.flops import finetuning_flops, stage_flops
from pretrain.greedy import fit_stages, load_stack
from pretrain.network import ConvNet, assemble
from pretrain.runs import Config, RunFolder
from pretrain.seeding import generator
from pretrain.stack import Stack
from pretrain.starting import open_run, stages_to_start_from

PICTURED = 8  # images in the pictures of reconstructions


def run_stages(config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Train the stages of a stack, or go on with them, in the folder ``config["out"]``.

    Returns
    -------
    dict
        The run's summary, as in summary.json; of the stages so far, where not all are trained.
    """
    folder = open_run(config, data, fabric, ignore=("upto", "labelled_digest"))  # it sees no label and no test image
    if summary := folder.summary():
        return summary
    folder.write_skipped(data.skipped)
    folder.write_leakage(data.leakage)
    pool = _pool(config, data)
    plan = build_stack(config["stack"], pool, config["seed"])
    upto = config.get("upto")
    upto = len(plan.stack) if upto is None else upto
    if upto not in range(1, len(plan.stack) + 1):
        raise UserError(f"upto={upto}: the stack has {len(plan.stack)} stages.")
    finished = load_stack(plan.stack, folder)
    held_out = data.validation.images if len(data.validation) else None
    for count in range(finished, upto + 1):  # the pictures of the last that was finished may be missing
        if count > finished:
            options = {"seed": config["seed"], "upto": count, "fabric": fabric, "folder": folder}
            fit_stages(plan.stack, pool, plan.training, held_out=held_out, **options)
        _draw_stage(plan.stack, count, data, folder)
    summary = _stages_summary(config, plan, len(pool), folder, stages=max(finished, upto))
    summary["skipped"] = len(data.skipped)
    if summary["stages"] == len(plan.stack):
        _complete(folder, summary, fabric)
    return summary


def _complete(folder: RunFolder, summary: dict[str, Any], fabric: Fabric) -> None:
    """Mark a run as complete once every process is done with it, and let none go on before that can be seen."""
    fabric.barrier()
    folder.write_summary(summary)
    fabric.barrier()


def _pool(config: Config, data: Dataset) -> Tensor:
    """Return the unlabelled images that the stages learn from: all, or ``config["pool"]``; smaller pools are nested."""
    count = config.get("pool")
    if count is None:
        return data.unlabelled
    if type(count) is not int or not 1 <= count <= len(data.unlabelled):
        raise UserError(f"pool={count}: give a number from 1 to {len(data.unlabelled)}, the unlabelled images.")
    order = torch.randperm(len(data.unlabelled), generator=generator(config["seed"], "pool"))
    return data.unlabelled[order[:count].sort().values]


def _draw_stage(stack: Stack, count: int, data: Dataset, folder: RunFolder) -> None:
    """Draw the last of the first `count` stages: filters, health, reconstructions, samples, as far as it has them."""
    if count == 0 or not folder.writes:
        return
    stack = stack.cpu().eval()
    chosen = torch.randperm(len(data.unlabelled), generator=generator(0, "pictures"))[:PICTURED]
    images, name = data.unlabelled[chosen], f"stage {count}"
    log = [row for row in folder.metrics() if row["phase"] == name]
    drawings = {
        "filters": lambda: pictures.filters(stack, count),
        "health": lambda: pictures.health(log, f"Stage {count}"),
        "reconstructions": lambda: pictures.reconstructions(stack, images, count),
        "samples": lambda: pictures.samples(stack, images, count, generator(0, "pictures", "samples", count)),
    }
    for kind, draw in drawings.items():
        with suppress(NotImplementedError):
            pictures.save(draw(), folder.path / f"stage{count}-{kind}.png")


def _stages_summary(config: Config, plan: StackPlan, pool: int, folder: RunFolder, stages: int) -> dict[str, Any]:
    """Gather what the log says of the first `stages` stages, which are trained on a pool of so many images."""
    last: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in folder.metrics():
        last[row["phase"]] |= row
    rows = [last[f"stage {k}"] for k in range(1, stages + 1)]
    drawn = [training.steps * min(training.batch_size, pool) for training in plan.training[:stages]]
    seconds = [row["seconds"] for row in rows]
    return {
        "stack": config["stack"]["name"],
        "seed": config["seed"],
        "stages": stages,
        "unlabelled": pool,
        "pretrain_seconds": round(sum(seconds), 3),
        "stage_seconds": seconds,
        "stage_flops": [stage_flops(plan.stack, k, plan.training[k], pool) for k in range(stages)],
        "images": sum(drawn),
        "images_per_second": [round(d / s, 1) for d, s in zip(drawn, seconds, strict=True)],
        "last": [{k: v for k, v in row.items() if k not in ("phase", "step", "seconds")} for row in rows],
    }


def run_finetune(config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Fine-tune an assembled network in the folder ``config["out"]``; a complete run is left as it is.

    Returns
    -------
    dict
        The run's summary, as in summary.json.
    """
    settings = finetuning_settings(config["finetuning"])
    stages = stages_to_start_from(config, data)
    folder = open_run({**config, "stages_digest": stages["digest"]}, data, fabric)
    if summary := folder.summary():
        return summary
    folder.write_skipped(data.skipped)
    folder.write_leakage(data.leakage)
    network = _assemble(config, data)
    labels = len(data.train) if config["labels"] == "all" else config["labels"]
    settings = _longer(settings, config.get("extra_flops", 0), network, labels)
    result = finetune(
        network,
        data,
        labels=_budget(config["labels"]),
        seed=config["seed"],
        settings=settings,
        fabric=fabric,
        folder=folder,
        test=config["test"],
    )
    network = network.cpu()
    folder.write_skipped(data.skipped)  # the test split was opened now
    if folder.writes:
        network.save(folder.path / "network.pt")
        _draw_finetuning(network, result, folder)
    summary = {
        "arm": config.get("arm") or arm_name(config["init"] == "pretrained", settings.freeze),
        "init": config["init"],
        "stack": config["stack"]["name"],
        "labels": labels,
        "seed": config["seed"],
        "val_accuracy": result.validation.accuracy if result.validation else None,
        "test_accuracy": result.test.accuracy if result.test else None,
        "pretrain_seconds": stages["pretrain_seconds"],
        "finetune_seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 1),
        "steps": result.steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "pretrain_flops": stages["pretrain_flops"],
        "finetune_flops": finetuning_flops(network, settings, labels, result.steps),
    }
    if result.head:
        summary["head"] = {"how": settings.head, **asdict(result.head)}
    if result.test:
        recall = result.test.per_class.items()
        summary["per_class_accuracy"] = {name: None if math.isnan(value) else value for name, value in recall}
        summary["confusion"] = result.test.confusion.tolist()
    _complete(folder, summary, fabric)
    return summary


def run_probe(config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Probe each depth of an assembled network in the folder ``config["out"]``; a complete run is left as it is.

    Returns
    -------
    dict
        The run's summary, as in summary.json.
    """
    stages = stages_to_start_from(config, data)
    folder = open_run({**config, "stages_digest": stages["digest"]}, data, fabric)
    if summary := folder.summary():
        return summary
    folder.write_skipped(data.skipped)
    folder.write_leakage(data.leakage)
    network = _assemble(config, data).to(fabric.device).to(memory_format=torch.channels_last)
    started = time.monotonic()
    with fabric.autocast():
        probes = probe(network, data, labels=_budget(config["labels"]), seed=config["seed"])
    folder.write_skipped(data.skipped)  # the test split was opened now
    summary = {
        "arm": "pretrained" if config["init"] == "pretrained" else "random",
        "init": config["init"],
        "stack": config["stack"]["name"],
        "labels": len(data.train) if config["labels"] == "all" else config["labels"],
        "seed": config["seed"],
        "pretrain_seconds": stages["pretrain_seconds"],
        "probe_seconds": round(time.monotonic() - started, 3),
        "depths": [asdict(each) for each in probes],
    }
    _complete(folder, summary, fabric)
    return summary


def _longer(settings: Finetuning, extra_flops: int, network: ConvNet, labels: int) -> Finetuning:
    """Return settings with as many more steps as so many floating-point operations pay for.

    Settings of no steps stay as they are: their head is fitted at once, and nothing learns in steps.
    """
    if not extra_flops or not settings.steps:
        return settings
    # A step more is one in which everything learns that will, though the head may learn alone at first.
    now, then = (finetuning_flops(network, settings, labels, settings.steps + more) for more in (0, 1))
    return replace(settings, steps=settings.steps + round(extra_flops / (then - now)))


def _assemble(config: Config, data: Dataset) -> ConvNet:
    """Return the network of trained stages, or the same one from scratch."""
    pretrained, seed = config["init"] == "pretrained", config["seed"]
    stack = build_stack(config["stack"], data.unlabelled, seed).stack
    if pretrained:
        load_stack(stack, RunFolder(config["stages"]))
    options = {"pretrained": pretrained, "upto": config.get("upto"), "unlabelled": data.unlabelled}
    return assemble(stack, data.classes, seed=seed, **options)


def arm_name(pretrained: bool, frozen: bool) -> str:
    """Return the usual name of an arm."""
    if frozen:
        return "pretrained-frozen" if pretrained else "random-frozen"
    return "pretrained" if pretrained else "scratch"


def _budget(labels: Any) -> int | None:
    if not isinstance(labels, int) and labels != "all":
        raise UserError(f"labels={labels}: give a number, or all.")
    return None if labels == "all" else labels


def _draw_finetuning(network: ConvNet, result: Result, folder: RunFolder) -> None:
    if result.test:
        pictures.save(pictures.confusion(result.test, network.classes), folder.path / "confusion.png")
    pictures.save(pictures.learning_curves(folder.metrics()), folder.path / "learning-curves.png")
