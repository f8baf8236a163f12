"""How a stage did over its steps."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pretrain.pictures.drawing import COLORS

# Of a stage's health: for each panel, figures of the log with a label and the number of a color.
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


def draw_health(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Draw how a stage did over its steps, from its log: a panel for each kind of figure that is there."""
    there = {key for row in rows for key in row}
    shown = {title: keys for title, keys in PANELS.items() if there & set(keys)}
    columns = 3
    figure = Figure(figsize=(10, 2.7 * math.ceil(len(shown) / columns) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(math.ceil(len(shown) / columns), columns, squeeze=False).ravel()
    for axes, (panel, keys) in zip(panels, shown.items(), strict=False):
        for key, (label, color) in keys.items():
            points = [
                (row["step"], row[key])
                for row in rows
                if key in row and ("weight_norm" in row) == (key not in TRAINING)
            ]
            axes.plot(*zip(*points, strict=True), label=label, color=COLORS[color]) if points else None
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.legend(frameon=False, fontsize=8) if len(keys) > 1 else None
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    return figure
