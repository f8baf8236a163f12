import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from pretrain.comparison.crossed_effects import crossed_effects, effects_over_seeds, image_covariance
from pretrain.comparison.paired_differences import estimate


def drawn(n, m, rng=0, seed_effect=0.3, image_effect=0.5, noise=1.0):
    draw = np.random.default_rng(rng).normal
    return 0.2 + draw(0, seed_effect, (n, 1)) + draw(0, image_effect, (1, m)) + draw(0, noise, (n, m))


def test_the_parts_of_the_variance_are_those_of_the_analysis_of_variance():
    x = drawn(4, 7)
    rows = pd.DataFrame([(s, i, x[s, i]) for s in range(4) for i in range(7)], columns=["seed", "image", "y"])
    table = anova_lm(smf.ols("y ~ C(seed) + C(image)", rows).fit())
    of_seeds, of_images, noise = table["mean_sq"]
    found = crossed_effects(x)
    assert found.seed_variance == pytest.approx(of_seeds / 7)
    assert found.image_variance == pytest.approx((of_images - noise) / 28)
    assert found.variance == pytest.approx((of_seeds + of_images - noise) / 28)
    assert found.degrees_of_freedom == pytest.approx((of_seeds + of_images - noise) ** 2 / (of_seeds**2 / 3))


def test_without_effects_of_images_the_interval_is_that_of_students_t_over_seeds():
    # Every image mean is the same, and the noise alone would make them differ.
    rows = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.7, 0.7, 0.7, 0.7]]
    x = np.add(rows, [[0.1], [0.3], [0.0]])
    found, seeds = crossed_effects(x), estimate(x.mean(axis=1))
    assert found.image_variance == 0
    assert (found.mean, *found.interval(0.95)) == pytest.approx((seeds.mean, seeds.low, seeds.high))


def test_seeds_that_agree_leave_the_normal_interval_over_images():
    of_images = np.random.default_rng(0).normal(size=50)
    found = crossed_effects(np.tile(of_images, (5, 1)))
    margin = 1.959964 * of_images.std(ddof=1) / np.sqrt(50)
    assert found.interval(0.95) == pytest.approx((of_images.mean() - margin, of_images.mean() + margin))


def test_p_is_below_the_level_exactly_where_the_interval_excludes_zero():
    for rng in range(50):
        found = crossed_effects(drawn(5, 30, rng))
        low, high = found.interval(0.95)
        assert (found.p < 0.05) == (low > 0 or high < 0)


def test_seeds_that_agree_are_judged_by_the_sign_test():
    assert crossed_effects(np.zeros((3, 4))).p == 1
    assert crossed_effects(np.ones((3, 4))).p == stats.binomtest(3, 3).pvalue


def test_no_claim_is_stronger_than_that_of_students_t_over_seeds():
    for rng in range(200):
        x = drawn(5, 20, rng, image_effect=0.1)
        found, seeds = crossed_effects(x), stats.ttest_1samp(x.mean(axis=1), 0)
        low, high = seeds.confidence_interval(0.95)
        assert found.p >= seeds.pvalue * (1 - 1e-9)
        assert found.interval(0.95)[0] <= low + 1e-12
        assert found.interval(0.95)[1] >= high - 1e-12


def test_a_single_seed_gives_no_interval():
    alone = effects_over_seeds([0.3])
    assert alone.mean == 0.3
    assert alone.p == 1
    assert np.isnan(alone.interval(0.95)).all()


def test_the_parts_are_right_on_average():
    parts = [crossed_effects(drawn(5, 40, rng)) for rng in range(600)]
    of_seeds, of_images = np.mean([[p.seed_variance, p.image_variance] for p in parts], axis=0)
    assert of_seeds == pytest.approx(0.3**2 + 1 / 40, rel=0.06)
    assert of_images == pytest.approx(0.5**2 / 40, rel=0.06)


def test_the_covariance_of_several_values_agrees_with_the_variance_of_their_sums():
    x = np.stack([drawn(5, 40, rng) for rng in range(3)], axis=2)
    weights = np.array([1.0, -2.0, 0.5])
    alone = image_covariance((x @ weights)[:, :, None])
    assert weights @ image_covariance(x) @ weights == pytest.approx(alone[0, 0])
