"""Loss and accuracy over the steps of fine-tuning."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pretrain.pictures.drawing import COLORS


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
