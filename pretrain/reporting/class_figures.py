"""Differences by class in a figure and in sentences."""

import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from pretrain.comparison.class_differences import ClassDifference
from pretrain.comparison.paired_differences import SEEDS_FOR_A_CLAIM
from pretrain.pictures.drawing import legible
from pretrain.reporting.plotting import INTERVAL_FROM, Row, Style, rows
from pretrain.reporting.settings_in_words import enumeration

# Of more classes than twice as many, so many of the highest and of the lowest are drawn.
CLASSES_PER_END = 10
NAMED_IN_A_SENTENCE = 10
NAME_LENGTH = 24  # characters; longer names would leave too little room for the differences
# XML knows no other characters, and a figure is XML.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def class_label(name: str, length: int = NAME_LENGTH) -> str:
    """Return the name of a class for a figure: as it is written, with an ellipsis where it is longer than `length`."""
    readable = NOT_IN_XML.sub("\ufffd", legible(name))
    return readable if len(readable) <= length else f"{readable[: length - 1]}…"


def draw_class_differences(found: Sequence[ClassDifference], style: Style) -> Figure:
    """Draw the difference in recall of each class at one label budget: mean, 95% interval and a dot for each seed.

    The names of classes with a detectable difference are bold. Of many classes, those at the two ends are drawn. Then a
    class with a single test image is left out, since its difference is among the most extreme.

    Parameters
    ----------
    found : sequence of ClassDifference
        Classes, in the order to draw.
    style : dict
        Color and marker of the arm.
    """
    ends = _ends(found)
    groups = {title: [_row(each) for each in group] for title, group in ends.items()}
    figure, axes = rows(groups, dict.fromkeys(groups, style))
    for label, each in zip(axes.get_yticklabels(), [each for group in ends.values() for each in group], strict=True):
        label.set_fontweight("bold" if each.is_detectable else "normal")
    axes.axvline(0, color="black", linewidth=0.9, zorder=0.5)
    first = found[0]
    axes.set_xlabel(f"points of recall above {first.baseline}\nwith the same seed, {first.labels:,} labels")
    return figure


def _ends(found: Sequence[ClassDifference]) -> dict[str, Sequence[ClassDifference]]:
    """Return the classes to draw, by the title of their group."""
    most = 2 * CLASSES_PER_END
    if len(found) <= most:
        return {f"{len(found)} class{'es' * (len(found) > 1)}": found}
    several = [each for each in found if each.images > 1] or found
    if len(several) <= most:
        return {f"{len(several)} of {len(found):,} classes": several}
    highest, lowest = several[:CLASSES_PER_END], several[-CLASSES_PER_END:]
    return {f"{CLASSES_PER_END} highest of {len(found):,} classes": highest, f"{CLASSES_PER_END} lowest": lowest}


def _row(each: ClassDifference) -> Row:
    shown = len(each.by_seed) >= INTERVAL_FROM
    low, high = (100 * bound if shown else float("nan") for bound in (each.low, each.high))
    return Row(class_label(each.name), 100 * each.mean, low, high, [100 * value for value in each.by_seed])


def class_caption(found: Sequence[ClassDifference]) -> str:
    """Return the caption of the figure of these differences."""
    first = found[0]
    few = len(first.by_seed) < INTERVAL_FROM
    interval = "mean" if few else "mean and 95% interval for other seeds and other test images"
    bold = "" if len(first.by_seed) < SEEDS_FOR_A_CLAIM else " Bold classes differ detectably."
    return f"Difference in recall by class, {first.labels:,} labels: {interval}, with a dot for each seed.{bold}"


def class_sentence(found: Sequence[ClassDifference]) -> str:
    """Return which classes differ detectably at one label budget, the largest differences first."""
    first = found[0]
    where = f"With {first.labels:,} labels"
    if len(first.by_seed) < SEEDS_FOR_A_CLAIM:
        return f"{where}, there are too few seeds for a claim about single classes."
    better = [each for each in found if each.is_detectable and each.mean > 0]
    worse = [each for each in reversed(found) if each.is_detectable and each.mean < 0]
    if not better and not worse:
        return f"{where}, {first.arm} is detectably better or worse in no single class."
    said = {"better": better, "worse": worse}
    clauses = [f"{word} on {_named(classes)}" for word, classes in said.items() if classes]
    none = "".join(f"; no class is detectably {word}" for word, classes in said.items() if not classes)
    return f"{where}, {first.arm} is {' and '.join(clauses)}{none}."


def _named(classes: Sequence[ClassDifference]) -> str:
    """Return the names of classes in a sentence, each in one line; of many, the number of the others."""
    names = [" ".join(class_label(each.name).split()) for each in classes[:NAMED_IN_A_SENTENCE]]
    others = len(classes) - len(names)
    return enumeration([*names, *([f"{others:,} more"] if others else [])])
