"""Pictures of test images that one arm classifies correctly in most seeds and the other does not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pretrain.comparison.image_gallery import GALLERY, IMAGES_PER_SIDE, Chosen, read_gallery
from pretrain.comparison.paired_predictions import PairedPredictions
from pretrain.errors import DamagedFileError
from pretrain.reporting.class_figures import class_label
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.plotting import GRID_COLOR, WIDTH

COLUMNS_OF_IMAGES = 3
ROW_OF_IMAGES = 2.0  # inches, with four lines of text
LETTERS = 18  # of a name that fits below an image


def kept_images(results: Results, chosen: Chosen) -> tuple[dict[int, Tensor], str]:
    """Return the images that are shown and that the folder holds, by position, and a line on those it does not."""
    file = results.path / GALLERY
    again = "Run the same command again, and the report shows them."
    try:
        images = read_gallery(file, results.labelled_digest) if file.exists() else {}
    except DamagedFileError as error:
        return {}, f"The images are not shown, since {file.name} is damaged ({error.reason}). {again}"
    there = {position: images[position] for position in chosen.shown if position in images}
    missing = len(chosen.shown) - len(there)
    if not missing:
        return there, ""
    which = f"{missing} of the images that belong here" if there else "The images"
    return there, f"{which} are not in {file.name}. {again}"


def gallery_sentence(chosen: Chosen) -> str:
    """Return how many images only the one arm gets right, and how many only the other does."""
    paired, only = chosen.paired, len(chosen.only_arm)
    most = f"in most of the {paired.seeds} seeds" if paired.seeds > 1 else "with the one seed"
    return (
        f"With {paired.labels:,} labels, {paired.arm} alone classifies {only:,} of {len(paired.truth):,} test images "
        f"correctly {most}, and {paired.baseline} alone {len(chosen.only_baseline):,}."
    )


def gallery_caption(chosen: Chosen, of_arm: bool) -> str:
    """Return what a picture of images shows, which only the arm or only the baseline gets right."""
    paired, count = chosen.paired, len(chosen.only_arm if of_arm else chosen.only_baseline)
    right, wrong = (paired.arm, paired.baseline) if of_arm else (paired.baseline, paired.arm)
    which = f"The {IMAGES_PER_SIDE} clearest of {count:,} test" if count > IMAGES_PER_SIDE else "Test"
    return (
        f"{which} images that {right} classifies correctly in most seeds and {wrong} does not, with {paired.labels:,} "
        f"labels. Above each stands its class; below, in how many seeds each arm is right and, after the arrow, what "
        f"{wrong} takes it for most often."
    )


def draw_gallery(chosen: Chosen, of_arm: bool, images: Mapping[int, Tensor], classes: Sequence[str]) -> Figure | None:
    """Draw the images that only the arm, or only the baseline, gets right in most seeds, with what both predicted.

    Parameters
    ----------
    chosen : Chosen
        Positions of these images.
    of_arm : bool
        Whether the arm is right, and not the baseline.
    images : mapping of int to Tensor
        The images there are by position, (C, H, W), uint8, with one or three channels.
    classes : sequence of str
        Names of the classes, in the order of their numbers.

    Returns
    -------
    Figure or None
        None where no image is there.
    """
    paired = chosen.paired
    positions = [k for k in (chosen.only_arm if of_arm else chosen.only_baseline)[:IMAGES_PER_SIDE] if k in images]
    if not positions:
        return None
    height = -(-len(positions) // COLUMNS_OF_IMAGES)
    figure = Figure(figsize=(WIDTH, ROW_OF_IMAGES * height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.07)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(height, COLUMNS_OF_IMAGES, squeeze=False).ravel()
    for axes, position in zip(grid, positions, strict=False):
        _show(axes, images[position])
        axes.set_title(class_label(classes[paired.truth[position]], LETTERS), fontsize=9.5, weight="bold", pad=3)
        axes.set_xlabel(_below(paired, of_arm, position, classes), fontsize=8.5, labelpad=3)
    for axes in grid[len(positions) :]:
        axes.set_axis_off()
    return figure


def _show(axes: Any, image: Tensor) -> None:
    """Draw an image, (C, H, W), uint8, in a thin frame; its pixels stay sharp in an SVG file, too."""
    axes.imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=GRID_COLOR)


def _below(paired: PairedPredictions, of_arm: bool, position: int, classes: Sequence[str]) -> str:
    """Return the lines below an image: in how many seeds each arm is right, and what the other takes it for."""
    truth = paired.truth[position]
    given = {paired.arm: paired.of_arm[:, position], paired.baseline: paired.of_baseline[:, position]}
    counts = [f"{class_label(arm, LETTERS)} {(of == truth).sum()}/{len(of)}" for arm, of in given.items()]
    wrong = given[paired.baseline if of_arm else paired.arm]
    # Of equally frequent mistakes, the class that comes first is named.
    mistake = int(np.bincount(wrong[wrong != truth]).argmax())
    return "\n".join([*(counts if of_arm else counts[::-1]), f"\u2192 {class_label(classes[mistake], LETTERS)}"])
