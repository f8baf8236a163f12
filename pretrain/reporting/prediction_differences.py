"""What the predictions of single test images show of the main arm and the baseline: by class, and image by image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.comparison.class_differences import ClassDifference, class_differences, class_rows
from pretrain.comparison.image_gallery import Chosen, choose_budget
from pretrain.comparison.paired_predictions import pair_predictions
from pretrain.reporting.class_figures import class_caption, class_sentence, draw_class_differences
from pretrain.reporting.comparison_figures import Drawing, file_name
from pretrain.reporting.comparison_results import Results
from pretrain.reporting.gallery_figures import draw_gallery, gallery_caption, gallery_sentence, kept_images
from pretrain.reporting.plotting import styles


@dataclass(frozen=True)
class PredictionDifferences:
    """Differences by class at each label budget, and the images that only one of two arms gets right.

    Attributes
    ----------
    results : Results
        What was compared.
    by_class : dict of int to list of ClassDifference
        Differences by label budget; empty where runs kept no predictions.
    chosen : Chosen, optional
        Images at the label budget that is drawn.
    """

    results: Results
    by_class: Mapping[int, list[ClassDifference]]
    chosen: Chosen | None

    def rows(self) -> list[dict[str, Any]]:
        """Return the differences by class for results.json."""
        return [row for found in self.by_class.values() for row in class_rows(found)]

    def about_classes(self) -> list[str]:
        """Return a sentence on the classes at each label budget."""
        return [class_sentence(found) for found in self.by_class.values()]

    def about_images(self) -> list[str]:
        """Return how many images only one of the arms gets right, and what keeps them from being shown."""
        if self.chosen is None:
            return []
        _, missing = kept_images(self.results, self.chosen)
        return [gallery_sentence(self.chosen), *([missing] if missing else [])]

    def drawings(self) -> Iterator[Drawing]:
        """Draw both at the label budget where the arms differ on most images, so that one page holds the figures."""
        if self.chosen is None:
            return
        paired, comparison = self.chosen.paired, self.results.comparison
        found = self.by_class[paired.labels]
        style = styles(comparison.arms, comparison.baseline)[paired.arm]
        yield Drawing("attribution", "classes", class_caption(found), draw_class_differences(found, style))
        images, _ = kept_images(self.results, self.chosen)
        for of_arm, arm in ((True, paired.arm), (False, paired.baseline)):
            figure = draw_gallery(self.chosen, of_arm, images, self.results.class_names)
            if figure:
                caption = gallery_caption(self.chosen, of_arm)
                yield Drawing("gallery", file_name("gallery", arm), caption, figure)


def prediction_differences(results: Results) -> PredictionDifferences:
    """Compare the predictions of the main arm and of the baseline, as far as both kept them."""
    main, baseline = results.comparison.main_arm, results.comparison.baseline
    budgets = pair_predictions(results.runs, results.test_labels, main, baseline) if main else []
    looks = results.comparison.looks
    by_class = {paired.labels: class_differences(paired, results.class_names, looks) for paired in budgets}
    return PredictionDifferences(results, by_class, choose_budget(budgets))
