"""The story of one run: fine-tuning an assembled network."""

import math
from dataclasses import asdict, replace
from typing import Any

from lightning_fabric import Fabric

from pretrain.data.dataset import Dataset
from pretrain.errors import UserError
from pretrain.network.convnet import ConvNet
from pretrain.pictures.drawing import save_figure
from pretrain.pictures.finetuning_curves import draw_confusion, draw_learning_curves
from pretrain.pipelines.pretrained_layers import stages_to_start_from, starting_network
from pretrain.pipelines.stage_training import complete_run
from pretrain.runs.run_folder import RunFolder, open_run
from pretrain.runs.settings import Config
from pretrain.training.compute_cost import finetuning_flops
from pretrain.training.finetuning import Result, finetune_network
from pretrain.training.recipes import Recipe, recipe_settings


def run_finetune(config: Config, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Fine-tune an assembled network in the folder ``config["out"]``; a complete run is left as it is.

    Returns
    -------
    dict
        The run's summary, as in summary.json.
    """
    recipe = recipe_settings(config["recipe"])
    stages = stages_to_start_from(config, data)
    folder = open_run({**config, "stages_digest": stages["digest"]}, data.digests, fabric)
    if summary := folder.summary():
        return summary
    data.record_in(folder)
    network = starting_network(config, data)
    labels = len(data.train) if config["labels"] == "all" else config["labels"]
    recipe = _longer(recipe, config.get("extra_flops", 0), network, labels)
    result = finetune_network(
        network,
        data,
        labels=label_budget(config["labels"]),
        seed=config["seed"],
        recipe=recipe,
        fabric=fabric,
        folder=folder,
        test=config["test"],
    )
    network = network.cpu()
    data.record_in(folder)  # the test split was opened now
    if folder.writes:
        network.save(folder.path / "network.pt")
        _draw_finetuning(network, result, folder)
    summary = {
        "arm": config.get("arm") or arm_name(config["init"] == "pretrained", recipe.freeze),
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
        "finetune_flops": finetuning_flops(network, recipe, labels, result.steps),
    }
    if result.head:
        summary["head"] = {"how": recipe.head, **asdict(result.head)}
    if result.test:
        recall = result.test.per_class.items()
        summary["per_class_accuracy"] = {name: None if math.isnan(value) else value for name, value in recall}
        summary["confusion"] = result.test.confusion.tolist()
    complete_run(folder, summary, fabric)
    return summary


def _longer(recipe: Recipe, extra_flops: int, network: ConvNet, labels: int) -> Recipe:
    """Return a recipe with as many more steps as so many floating-point operations pay for.

    A recipe of no steps stays as it is: its head is fitted at once, and nothing trains in steps.
    """
    if not extra_flops or not recipe.steps:
        return recipe
    # A step more is one in which everything learns that will, though the head may learn alone at first.
    now, then = (finetuning_flops(network, recipe, labels, recipe.steps + more) for more in (0, 1))
    return replace(recipe, steps=recipe.steps + round(extra_flops / (then - now)))


def arm_name(pretrained: bool, frozen: bool) -> str:
    """Return the usual name of an arm."""
    if frozen:
        return "pretrained-frozen" if pretrained else "random-frozen"
    return "pretrained" if pretrained else "scratch"


def label_budget(labels: Any) -> int | None:
    """Return a label budget as a number; None for all."""
    if not isinstance(labels, int) and labels != "all":
        raise UserError(f"labels={labels}: give a number, or all.")
    return None if labels == "all" else labels


def _draw_finetuning(network: ConvNet, result: Result, folder: RunFolder) -> None:
    if result.test:
        save_figure(draw_confusion(result.test, network.classes), folder.path / "confusion.png")
    save_figure(draw_learning_curves(folder.metrics()), folder.path / "learning-curves.png")
