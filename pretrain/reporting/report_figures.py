"""Every figure of a report, with its caption and its place."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from pretrain.comparison.verdicts import PairedComparison
from pretrain.reporting import attribution_figures, comparison_figures, plotting
from pretrain.reporting.comparison_figures import Drawing, Part, file_name
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.compute_figures import draw_compute
from pretrain.reporting.findings import Findings

LABELS_SAVED_CAPTION = (
    "Labels that the baseline needs for the same accuracy, with 95% intervals. A ring marks the labels of the arm. An "
    "arrowhead points beyond the budgets that were run, where intervals are cut off as well."
)


def draw(found: Findings) -> Iterator[Drawing]:
    """Draw every figure that there is data for."""
    results, paired = found.results, found.paired
    looks = plotting.styles(results.comparison.arms, results.comparison.baseline)
    drawn = results.runs["seed"].nunique() >= plotting.INTERVAL_FROM
    interval = f"mean{' and 95% interval for new seeds' if drawn else ''}"
    with_images = drawn and any(c.difference.new_images for c in paired)
    both = f"{interval}{', and for new seeds and images as a thin line' if with_images else ''}"
    shown = comparison_figures.panels(results.comparison)
    main = next(iter(shown.values()))
    for title, arms in shown.items():
        figure = comparison_figures.draw_accuracy(results.runs, arms, looks)
        yield from _drawing("results", f"accuracy {title}", f"Test accuracy, {title}: {interval}.", figure)
        figure = comparison_figures.draw_differences(results.runs, paired, arms, looks)
        caption = f"Paired differences, {title}: {both}. A dot is a seed."
        yield from _drawing("results", f"differences {title}", caption, figure)
    figure = comparison_figures.draw_labels_saved(found.efficiencies, main, looks)
    yield from _drawing("results", "labels saved", LABELS_SAVED_CAPTION, figure)
    for labels, curves in results.curves.groupby("labels"):
        figure = comparison_figures.draw_accuracy_over_time(curves, main, looks)
        caption = f"Validation accuracy over time, {labels:,} labels: {interval}. Pretraining ends at a dashed line."
        yield from _drawing("time", f"time {labels} labels", caption, figure)
    yield from _attribution(results, paired, interval, both)
    yield from found.predictions.drawings()
    yield from draw_compute(results, found.frontiers)


def _attribution(results: Results, paired: list[PairedComparison], interval: str, both: str) -> Iterator[Drawing]:
    """Draw the figures that attribute a gain, with the words for one interval and for both."""
    for labels, probes in results.probes.groupby("labels"):
        caption = f"Test accuracy of linear probes at each depth, {labels:,} labels: {interval}."
        yield from _drawing("attribution", f"probes {labels} labels", caption, attribution_figures.probe_depths(probes))
    gain = f"paired by seed: {both}."
    caption, figure = "Gain by the number of pretrained layers kept", attribution_figures.layers_kept(results, paired)
    yield from _drawing("attribution", "layers kept", f"{caption}, {gain}", figure)
    caption, figure = "Gain by the number of unlabelled images", attribution_figures.unlabelled_images(results, paired)
    yield from _drawing("attribution", "unlabelled images", f"{caption}, {gain}", figure)


def _drawing(part: Part, name: str, caption: str, figure: Figure | None) -> Iterator[Drawing]:
    """Yield a figure with its name and caption, or nothing where there is no figure."""
    if figure is not None:
        yield Drawing(part, file_name(name), caption, figure)
