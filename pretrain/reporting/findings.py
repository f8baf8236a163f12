"""What a comparison found: its results, with every statistic that its report shows."""

from dataclasses import dataclass

from pretrain.comparison.compute_frontier import ComputeFrontier
from pretrain.comparison.label_efficiency import LabelEfficiency, label_efficiency
from pretrain.comparison.verdicts import PairedComparison, compare_arms
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.compute_text import frontiers_of
from pretrain.reporting.headline import against_matched
from pretrain.reporting.prediction_differences import PredictionDifferences, prediction_differences


@dataclass(frozen=True)
class Findings:
    """What a comparison found.

    Attributes
    ----------
    results : Results
        What its folder holds.
    paired : list of PairedComparison
        Every arm against the baseline.
    matched : list of PairedComparison
        The main arm against the compute-matched one.
    efficiencies : list of LabelEfficiency
        Labels that the baseline needs to be as accurate as each arm.
    frontiers : list of ComputeFrontier
        Every arm against the baseline over total compute, where it was varied.
    predictions : PredictionDifferences
        Differences by class and by image, where runs kept their predictions.
    """

    results: Results
    paired: list[PairedComparison]
    matched: list[PairedComparison]
    efficiencies: list[LabelEfficiency]
    frontiers: list[ComputeFrontier]
    predictions: PredictionDifferences


def findings_of(results: Results) -> Findings:
    """Return every statistic of the results of a comparison."""
    baseline = results.comparison.baseline
    return Findings(
        results=results,
        paired=compare_arms(results.runs, baseline, results.comparison.looks),
        matched=against_matched(results),
        efficiencies=label_efficiency(results.runs, baseline),
        frontiers=frontiers_of(results),
        predictions=prediction_differences(results),
    )
