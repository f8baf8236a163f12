"""Pictures of a run: filters, reconstructions, learning curves, confusion."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor
from torchvision.utils import make_grid

from pretrain.evaluation import Evaluation
from pretrain.preprocessing import unit_range
from pretrain.stack import Stack

SHOWN = 64  # filters in a picture
STEPS = (1, 10, 100, 1000)  # of the chains in a picture of samples
# Of a stage's health: for each panel, figures of the log with a label and the number of a colour.
PANELS = {
    "loss": {"loss": ("", 0)},
    "similarity of two views": {"similarity": ("", 2)},
    "reconstruction error": {"reconstruction": ("training", 0), "held_out_reconstruction": ("held out", 1)},
    "distance of a patch to its centroid": {"distance": ("training", 0), "held_out_distance": ("held out", 1)},
    "distance of the filters' norms from 1": {"norm_gap": ("", 0)},
    "free energy (nats an image)": {"free_energy": ("training", 0), "held_out_free_energy": ("held out", 1)},
    "free energy, held out minus training": {"free_energy_gap": ("", 2)},
    "pseudo-likelihood (nats an image)": {
        "pseudo_likelihood": ("training", 0),
        "held_out_pseudo_likelihood": ("held out", 1),
    },
    "hidden units": {"hidden_mean": ("mean", 0), "dead": ("dead maps", 1), "saturated": ("saturated maps", 3)},
    "norm of the weights": {"weight_norm": ("", 0)},
    "size of an update, of the weights'": {"update_ratio": ("", 0)},
    "chains": {"mixing": ("mixing", 0), "swaps": ("swaps", 1)},
}
# Figures of batches; the others are measured on samples.
TRAINING = ("loss", "similarity", "update_ratio", "mixing", "swaps")
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG."""
    figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")


@torch.no_grad()
def project(stack: Stack, upto: int) -> Tensor:
    """Return what each of the first filters of a layer stands for in preprocessed pixels: (filters, C, size, size).

    A filter is drawn as its weights on the layer below, these as theirs, and so on down to the image, as if
    there were no rectifiers and each pooled position counted the same for every place of its window. For the
    first layer these are the filters themselves.
    """
    layers = [stage.layer for stage in stack][:upto]
    x = torch.eye(layers[-1].conv.out_channels)[:SHOWN, :, None, None]
    for layer in reversed(layers):
        if layer is not layers[-1]:
            x = layer.spread(x)
        x = F.conv_transpose2d(x, layer.conv.weight.float(), stride=layer.conv.stride)
    return x


def filters(stack: Stack, upto: int) -> Figure:
    """Draw the filters of a layer in the colours of the image; grey is zero, each has its own contrast."""
    fields = project(stack, upto)
    fields = fields / fields.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    total = stack[upto - 1].out_channels
    figure = Figure(figsize=(6, 6.3))
    axes = figure.subplots()
    columns = round(len(fields) ** 0.5)
    _show(axes, make_grid(fields / 2 + 0.5, nrow=columns, padding=1, pad_value=1.0))
    shown = "all" if total == len(fields) else f"the first {len(fields)} of"
    axes.set_title(f"Stage {upto}: {shown} {total} filters, as pixels", fontsize=11)
    return figure


def reconstructions(stack: Stack, images: Tensor, upto: int) -> Figure:
    """Draw images above what is left of them after each of the first stages, decoded through the whole stack.

    Raises
    ------
    NotImplementedError
        When a stage has no decoder.
    """
    original = unit_range(images)
    rows = {"image": original}
    for k in range(1, upto + 1):
        rows[f"through\nstage{'s 1-' + str(k) if k > 1 else ' 1'}"] = stack.reconstruct(images, k)
    return _strips(rows)


def samples(stack: Stack, images: Tensor, upto: int, generator: torch.Generator) -> Figure:
    """Draw where chains of the last of the first `upto` stages get to from images, decoded down to pixels.

    Raises
    ------
    NotImplementedError
        When that stage is no model to draw from, or one below it has no decoder.
    """
    rows = {"images,\nas decoded": stack.dream(images, upto, 0, generator)}
    for steps in STEPS:
        rows[f"{steps:,} step{'s' * (steps > 1)}"] = stack.dream(images, upto, steps, generator)
    return _strips(rows)


def _strips(rows: dict[str, Tensor]) -> Figure:
    """Draw rows of as many pictures each, (N, C, H, W), with their labels."""
    count = max(len(row) for row in rows.values())
    figure = Figure(figsize=(1.05 * count + 1, 1.05 * len(rows) + 0.4))
    for axes, (label, row) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True):
        _show(axes, make_grid(row, nrow=len(row), padding=1, pad_value=1.0))
        axes.set_ylabel(label, fontsize=9)
    return figure


def health(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Draw how a stage did over its steps, from its log: a panel for each kind of figure that is there."""
    there = {key for row in rows for key in row}
    shown = {title: keys for title, keys in PANELS.items() if there & set(keys)}
    columns = 3
    figure = Figure(figsize=(10, 2.7 * math.ceil(len(shown) / columns) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(math.ceil(len(shown) / columns), columns, squeeze=False).ravel()
    for axes, (panel, keys) in zip(panels, shown.items(), strict=False):
        for key, (label, colour) in keys.items():
            points = [
                (row["step"], row[key])
                for row in rows
                if key in row and ("weight_norm" in row) == (key not in TRAINING)
            ]
            axes.plot(*zip(*points, strict=True), label=label, color=COLOURS[colour]) if points else None
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.legend(frameon=False, fontsize=8) if len(keys) > 1 else None
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    return figure


def _show(axes: Any, picture: Tensor) -> None:
    axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def confusion(evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix in shares of each true class, with each class's accuracy."""
    counts = evaluation.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [f"{name} ({evaluation.per_class[name]:.0%})" for name in classes]
    few = len(classes) <= 30
    size = max(4.5, 0.55 * len(classes) + 1.5) if few else 18.0
    figure = Figure(figsize=(size + 0.8, size))
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(100 * shares, display_labels=classes)
    rotation = 45 if few else 90
    display.plot(
        ax=axes, cmap="Blues", values_format=".0f", include_values=few, colorbar=False, xticks_rotation=rotation
    )
    axes.set_yticklabels(labels)
    axes.tick_params(labelsize=None if few else min(10, 1000 / len(classes)))
    axes.set(
        title=f"Test accuracy {evaluation.accuracy:.1%}; % of each true class",
        xlabel="predicted",
        ylabel="true (accuracy)",
    )
    return figure


def learning_curves(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw loss and accuracy over the steps of a fine-tuning run."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = [row for row in rows if "loss" in row]
    checks = [row for row in rows if "val_accuracy" in row]
    steps = [row["step"] for row in training]
    left.plot(steps, [row["loss"] for row in training], color=COLOURS[0])
    left.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    right.plot(steps, [100 * row["accuracy"] for row in training], color=COLOURS[0], label="training batch")
    if checks:
        right.plot(
            [row["step"] for row in checks],
            [100 * row["val_accuracy"] for row in checks],
            "o-",
            color=COLOURS[1],
            label="validation",
        )
    right.set(xlabel="step", ylabel="accuracy (%)", ylim=(0, 102))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
