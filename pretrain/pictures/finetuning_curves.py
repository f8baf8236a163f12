"""The learning curves and the confusion matrix of fine-tuning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from pretrain.evaluation.predictions import Evaluation
from pretrain.pictures.drawing import COLORS


def draw_confusion(evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix in percent of each true class, with the accuracy of each class."""
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


def draw_learning_curves(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw loss and accuracy over the steps of a fine-tuning run."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = [row for row in rows if "loss" in row]
    checks = [row for row in rows if "val_accuracy" in row]
    steps = [row["step"] for row in training]
    left.plot(steps, [row["loss"] for row in training], color=COLORS[0])
    left.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    right.plot(steps, [100 * row["accuracy"] for row in training], color=COLORS[0], label="training batch")
    if checks:
        right.plot(
            [row["step"] for row in checks],
            [100 * row["val_accuracy"] for row in checks],
            "o-",
            color=COLORS[1],
            label="validation",
        )
    right.set(xlabel="step", ylabel="accuracy (%)", ylim=(0, 102))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
