"""Seeds and test images as crossed random effects: what a mean over both says of other seeds and other images.

Every run of a comparison is judged by the same test images. A value of seed s and image i, such as the difference
between two arms there, is modelled as ``mean + seed_s + image_i + noise_si``. Radiology asks the same question when
several readers judge the same cases, and the estimates here are those of its analysis of variance.

With few seeds, crossed effects alone would claim too much where images seem to have no effect: their degrees of freedom
take the part of the images for known (`benchmarks/coverage.py` draws such comparisons). So no interval is narrower, and
no p value is smaller, than that of Student's t over seeds alone.

References
----------
Dorfman, Berbaum and Metz (1992), Receiver operating characteristic rating analysis, Investigative Radiology 27.
Hillis (2007), A comparison of denominator degrees of freedom methods for multiple observer ROC analysis, Statistics in
Medicine 26, on the degrees of freedom.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

NAN = float("nan")
# Values that differ by less than this differ by rounding alone.
ROUNDING = 1e-12


@dataclass(frozen=True)
class CrossedEffects:
    """A mean over seeds and images, with the two parts of its variance.

    Attributes
    ----------
    seeds, images : int
        Number of each. A single seed gives no interval. 0 images: nothing is known of single images.
    mean : float
        Mean over both.
    seed_variance : float
        Variance of the mean of a single seed over these images, which includes noise.
    image_variance : float
        Variance of the mean over seeds that is due to the images, and that more seeds do not remove.
    """

    seeds: int
    images: int
    mean: float
    seed_variance: float
    image_variance: float

    @property
    def variance(self) -> float:
        """Variance of the mean, over new seeds and new images."""
        return self.seed_variance / self.seeds + self.image_variance

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of that variance (Hillis); infinite where all seeds are equal."""
        of_seeds = self.seed_variance / self.seeds
        return (self.seeds - 1) * (self.variance / of_seeds) ** 2 if of_seeds else np.inf

    @property
    def over_seeds(self) -> "CrossedEffects":
        """The same mean for new seeds on these test images alone."""
        return replace(self, images=0, image_variance=0.0)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval of the mean at a confidence such as 0.95, with bounds that are NaN for a single seed.

        It holds for new seeds and new images, or for new seeds alone where nothing is known of images.
        """
        if self.seeds < 2:
            return NAN, NAN
        margin = self.margin(level)
        return self.mean - margin, self.mean + margin

    def margin(self, level: float) -> float:
        """Return how far the interval at a confidence reaches to each side; a test needs a mean beyond it."""
        return max(each._margin(level) for each in (self, self.over_seeds))

    def _margin(self, level: float) -> float:
        return float(stats.t.ppf((1 + level) / 2, self.degrees_of_freedom) * np.sqrt(self.variance))

    @property
    def p(self) -> float:
        """Two-sided p value of the hypothesis that the mean over all seeds and all images is 0; 1 for a single seed."""
        if self.seeds < 2 or self.mean == 0:
            return 1.0
        return max(each._p() for each in (self, self.over_seeds))

    def _p(self) -> float:
        if self.variance == 0:
            # Where all seeds agree, t is not defined, and the sign test takes its place.
            return float(2.0 ** (1 - self.seeds))
        return float(2 * stats.t.sf(abs(self.mean) / np.sqrt(self.variance), self.degrees_of_freedom))


def effects_over_seeds(values: ArrayLike) -> CrossedEffects:
    """Estimate the mean and its variance from a value for each seed, (n,), with nothing known of single images."""
    x = np.asarray(values, dtype=float)
    # Equal values, as floats, are so only nearly.
    if np.ptp(x) < ROUNDING:
        return CrossedEffects(len(x), 0, float(x[0]), 0.0, 0.0)
    return CrossedEffects(len(x), 0, float(x.mean()), float(x.var(ddof=1)), 0.0)


def crossed_effects(values: ArrayLike) -> CrossedEffects:
    """Estimate the mean and the parts of its variance from a value for each seed and image, (n, m), both at least 2."""
    x = np.asarray(values, dtype=float)
    image_variance = max(float(image_covariance(x[:, :, None])[0, 0]), 0.0)
    return replace(effects_over_seeds(x.mean(axis=1)), images=x.shape[1], image_variance=image_variance)


def image_covariance(values: np.ndarray) -> np.ndarray:
    """Return the covariance that images give to means over seeds and images, (k, k), of values, (n, m, k).

    It is the covariance of image means, less the part that noise would give them. Its estimate may be negative.
    """
    n, m, _ = values.shape
    of_seeds, of_images = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    centered = (of_images - of_images.mean(axis=1))[0]  # (m, k)
    noise = values - of_seeds - of_images + of_images.mean(axis=1, keepdims=True)
    between = n * centered.T @ centered / (m - 1)
    within = np.einsum("nmi,nmj->ij", noise, noise) / ((n - 1) * (m - 1))
    return (between - within) / (n * m)
