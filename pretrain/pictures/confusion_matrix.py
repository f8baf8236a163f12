"""The confusion matrix of a fine-tuned network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from pretrain.evaluation.predictions import Evaluation
from pretrain.pictures.drawing import legible


def draw_confusion(evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix in percent of each true class, with the accuracy of each class."""
    counts = evaluation.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [f"{legible(name)} ({evaluation.per_class[name]:.0%})" for name in classes]
    few = len(classes) <= 30
    size = max(4.5, 0.55 * len(classes) + 1.5) if few else 18.0
    figure = Figure(figsize=(size + 0.8, size))
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(100 * shares, display_labels=[*map(legible, classes)])
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
