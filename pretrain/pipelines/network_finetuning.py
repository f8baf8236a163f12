"""Run the fine-tuning of an assembled network."""

import math
from dataclasses import asdict, replace
from typing import Any

from lightning_fabric import Fabric

from pretrain.data.dataset import Dataset
from pretrain.evaluation.kept_predictions import keep_predictions
from pretrain.evaluation.predictions import Evaluation
from pretrain.network.convnet import ConvNet
from pretrain.pictures.confusion_matrix import draw_confusion
from pretrain.pictures.drawing import save_figure
from pretrain.pictures.learning_curves import draw_learning_curves
from pretrain.pipelines.run_settings import FinetuningRun
from pretrain.pipelines.stage_training import complete_run, summary_of_complete, traces
from pretrain.pipelines.starting_layers import StartingLayers, starting_layers, starting_network
from pretrain.runs.profiling import timed
from pretrain.runs.run_folder import RunFolder, open_run
from pretrain.runs.tensor_files import SUFFIX
from pretrain.training.finetuning import Result, finetune_network
from pretrain.training.flop_counting import finetuning_flops
from pretrain.training.recipes import Recipe


def run_finetune(
    settings: FinetuningRun, data: Dataset, fabric: Fabric, *, keep_network: bool = True
) -> dict[str, Any]:
    """Fine-tune an assembled network in the folder ``settings.out``; a complete run is left as it is.

    Parameters
    ----------
    settings, data, fabric
        What to run, on which images, and where.
    keep_network : bool
        Whether the network is saved. A trial is run for its accuracy alone.

    Returns
    -------
    dict
        Contents of summary.json.
    """
    with timed("preparation"):
        layers = starting_layers(settings, data, settings.upto)
    with open_run(settings, {**data.digests, "stages_digest": layers.digest}, fabric) as folder:
        return summary_of_complete(settings, folder) or _finetune(settings, data, fabric, folder, layers, keep_network)


def _finetune(
    settings: FinetuningRun,
    data: Dataset,
    fabric: Fabric,
    folder: RunFolder,
    layers: StartingLayers,
    keep_network: bool,
) -> dict[str, Any]:
    """Train the network, save and draw it, and return the summary."""
    data.record_in(folder)
    with timed("preparation"):
        network = starting_network(settings, data, layers, settings.upto)
    labels = len(data.train) if settings.labels == "all" else settings.labels
    recipe = _longer(settings.recipe, settings.extra_flops, network, labels)
    result = finetune_network(
        network,
        data,
        labels=settings.label_budget,
        seed=settings.seed if settings.order_seed is None else settings.order_seed,
        label_seed=settings.seed_of_labels,
        recipe=recipe,
        fabric=fabric,
        folder=folder,
        test=settings.test,
        callbacks=traces(settings, folder),
    )
    network = network.cpu()
    # Opening the test split may have added skipped files.
    data.record_in(folder)
    if folder.writes:
        if keep_network:
            network.save(folder.path / f"network{SUFFIX}")
        if result.test:
            keep_predictions(folder, result.test, data.labelled_digest)
        with timed("pictures"):
            _draw_finetuning(network, result, folder)
    summary = _summary(settings, recipe, layers, network, labels, result)
    return complete_run(folder, summary, fabric)


def _summary(
    settings: FinetuningRun, recipe: Recipe, layers: StartingLayers, network: ConvNet, labels: int, result: Result
) -> dict[str, Any]:
    """Return the contents of summary.json: the run's settings, accuracy and cost."""
    return {
        **{"arm": settings.arm_name, "init": settings.init, "stack": settings.stack.name},
        **{"labels": labels, "seed": settings.seed},
        "val_accuracy": result.validation.accuracy if result.validation else None,
        "test_accuracy": result.test.accuracy if result.test else None,
        "pretrain_seconds": layers.seconds,
        "finetune_seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 1),
        "steps": result.steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "pretrain_flops": layers.flops,
        "finetune_flops": finetuning_flops(network, recipe, labels, result.steps),
        **({"pool_shared": asdict(layers.learned)} if layers.learned else {}),
        **({"head": {"how": recipe.head, **asdict(result.head)}} if result.head else {}),
        **(_per_class(result.test) if result.test else {}),
    }


def _per_class(test: Evaluation) -> dict[str, Any]:
    """Return the confusion matrix and the accuracy of each class, null for a class without test images."""
    recall = {name: None if math.isnan(value) else value for name, value in test.per_class.items()}
    return {"per_class_accuracy": recall, "confusion": test.confusion.tolist()}


def _longer(recipe: Recipe, extra_flops: int, network: ConvNet, labels: int) -> Recipe:
    """Return a recipe with the additional steps that `extra_flops` floating-point operations pay for.

    A recipe without steps is returned unchanged, since its head is fitted at once.
    """
    if not extra_flops or not recipe.steps:
        return recipe
    # The head may train alone in the first steps, so the cost is that of a step at the end.
    now, then = (finetuning_flops(network, recipe, labels, recipe.steps + more) for more in (0, 1))
    return replace(recipe, steps=recipe.steps + round(extra_flops / (then - now)))


def _draw_finetuning(network: ConvNet, result: Result, folder: RunFolder) -> None:
    if result.test:
        test = result.test
        save_figure(lambda: draw_confusion(test, network.classes), folder.path / "confusion.png")
    save_figure(lambda: draw_learning_curves(folder.metrics()), folder.path / "learning-curves.png")
