import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import fractional_matrix_power
from sklearn.preprocessing import StandardScaler
from torch.distributions import Bernoulli, kl_divergence

from pretrain.network.activations import scaled_tanh, triangle
from pretrain.network.preprocessing import contrast_normalized
from pretrain.network.whitening import whitening_power
from pretrain.runs.seeding import generator
from pretrain.stages.contrastive_losses import info_nce, vicreg
from pretrain.stages.corruption import gaussian_noise, masking_noise, salt_and_pepper_noise
from pretrain.stages.sparsity import kl_penalty, l1_penalty, lifetime_winner_take_all, spatial_winner_take_all
from pretrain.stages.unpooling import keep_maxima, max_pool_with_switches, unpool_with_switches

NOISES = [gaussian_noise, masking_noise, salt_and_pepper_noise]
COUNT = 20_000


def draw(*names):
    return generator(0, "test", *names)


def uniform(*shape, dtype=torch.float32):
    return torch.rand(shape, generator=draw(*shape), dtype=dtype)


def normal(*shape):
    return torch.randn(shape, generator=draw(*shape), dtype=torch.float64)


def within_five_sigma(share, level, count):
    return abs(share - level) < 5 * math.sqrt(level * (1 - level) / count)


def test_scaled_tanh_is_its_closed_form():
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    expected = torch.tensor([1.7159 * math.tanh(2 * value / 3) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(scaled_tanh(x), expected, rtol=1e-14, atol=1e-15)


def test_scaled_tanh_maps_plus_and_minus_one_to_themselves_as_lecun_wanted():
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(scaled_tanh(ends), ends, rtol=0, atol=2e-5)


def test_gaussian_noise_has_the_standard_deviation_asked_for():
    x = uniform(COUNT, dtype=torch.float64)
    noise = gaussian_noise(x, 0.3, draw("noise")) - x
    assert abs(noise.std() - 0.3) < 5 * 0.3 / math.sqrt(2 * COUNT)
    assert abs(noise.mean()) < 5 * 0.3 / math.sqrt(COUNT)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_masking_noise_sets_the_share_asked_for_to_zero_and_leaves_the_rest(level):
    x = uniform(COUNT) + 1
    noisy = masking_noise(x, level, draw("noise"))
    changed = noisy != x
    assert within_five_sigma(changed.double().mean().item(), level, COUNT)
    assert (noisy[changed] == 0).all()


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_salt_and_pepper_noise_sets_half_the_share_to_the_least_and_half_to_the_greatest_value(level):
    x = torch.randn(COUNT, generator=draw("values"))
    noisy = salt_and_pepper_noise(x, level, draw("noise"))
    least, greatest = noisy == x.min(), noisy == x.max()
    assert within_five_sigma(least.double().mean().item(), level / 2, COUNT)
    assert within_five_sigma(greatest.double().mean().item(), level / 2, COUNT)
    assert torch.equal(noisy[~(least | greatest)], x[~(least | greatest)])


@pytest.mark.parametrize("noise", NOISES)
def test_noise_of_level_zero_changes_nothing(noise):
    x = uniform(50)
    assert torch.equal(noise(x, 0.0, draw("noise")), x)


def test_masking_and_salt_and_pepper_of_level_one_leave_no_element_as_it_was():
    x = uniform(1000)
    assert not masking_noise(x, 1.0, draw("noise")).any()
    assert set(salt_and_pepper_noise(x, 1.0, draw("noise")).tolist()) == {x.min().item(), x.max().item()}


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_named_by_its_generator_and_leaves_its_input_alone(noise):
    x = uniform(100)
    before = x.clone()
    assert torch.equal(noise(x, 0.5, draw("a")), noise(x, 0.5, draw("a")))
    assert not torch.equal(noise(x, 0.5, draw("a")), noise(x, 0.5, draw("b")))
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", [2, 3])
def test_unpooling_puts_the_maxima_back_where_they_were_with_zeros_elsewhere(size):
    x = torch.randn(2, 3, 6, 6, generator=draw("values"), dtype=torch.float64)
    expected = torch.zeros_like(x)
    for n in range(2):
        for c in range(3):
            for top in range(0, 6, size):
                for left in range(0, 6, size):
                    cells = [(i, j) for i in range(top, top + size) for j in range(left, left + size)]
                    i, j = max(cells, key=lambda cell: x[n, c, cell[0], cell[1]].item())
                    expected[n, c, i, j] = x[n, c, i, j]
    pooled, switches = max_pool_with_switches(x, size)
    assert torch.equal(pooled, F.max_pool2d(x, size))
    assert torch.equal(unpool_with_switches(pooled, switches, size), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_keeping_the_maxima_is_pooling_and_unpooling_by_switches_and_so_is_its_gradient(size, layout):
    x, weights = (torch.randn(2, 3, 6, 6, generator=draw(name), dtype=torch.float64) for name in ("values", "weights"))
    kept, unpooled = (x.to(memory_format=layout).requires_grad_() for _ in range(2))
    first = keep_maxima(kept, size)
    second = unpool_with_switches(*max_pool_with_switches(unpooled, size), size)
    assert first.is_contiguous(memory_format=layout)
    for y in (first, second):
        (y * weights).sum().backward()
    assert torch.equal(first, second)
    assert torch.equal(kept.grad, unpooled.grad)


def test_spatial_winner_take_all_keeps_the_one_greatest_activation_of_each_map():
    h = uniform(3, 4, 5, 5)
    kept = spatial_winner_take_all(h)
    for n in range(3):
        for c in range(4):
            flat = h[n, c].flatten().tolist()
            winner = flat.index(max(flat))
            assert kept[n, c].flatten().tolist() == [value if k == winner else 0 for k, value in enumerate(flat)]


def test_of_equal_activations_one_wins():
    h = torch.ones(8, 3, 4, 4, dtype=torch.bfloat16)
    kept = spatial_winner_take_all(h)
    assert (kept.sum(dim=(2, 3)) == 1).all()
    assert (lifetime_winner_take_all(kept, 0.25).sum(dim=(0, 2, 3)) == 2).all()


@pytest.mark.parametrize(("share", "winners"), [(0.05, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_lifetime_winner_take_all_keeps_the_images_with_the_strongest_peaks_of_each_map(share, winners):
    h = spatial_winner_take_all(uniform(8, 3, 4, 4))
    kept = lifetime_winner_take_all(h, share)
    for c in range(3):
        order = sorted(range(8), key=lambda n: h[n, c].max().item(), reverse=True)
        for place, n in enumerate(order):
            expected = h[n, c] if place < winners else torch.zeros_like(h[n, c])
            assert torch.equal(kept[n, c], expected)


def test_l1_penalty_is_the_mean_absolute_activation():
    h = torch.tensor([[[[1.0, -2.0], [0.0, 5.0]]]])
    assert l1_penalty(h).item() == 2.0


@pytest.mark.parametrize("target", [0.05, 0.3])
def test_kl_penalty_is_the_divergence_between_bernoulli_variables(target):
    h = uniform(4, 6, 3, 3, dtype=torch.float64)
    mean = h.transpose(0, 1).flatten(1).mean(1)
    explicit = [target * math.log(target / q) + (1 - target) * math.log((1 - target) / (1 - q)) for q in mean.tolist()]
    penalty = kl_penalty(h, target)
    torch.testing.assert_close(penalty.item(), sum(explicit) / 6, rtol=1e-12, atol=0)
    goal = Bernoulli(torch.full_like(mean, target))
    torch.testing.assert_close(penalty, kl_divergence(goal, Bernoulli(mean)).mean(), rtol=1e-12, atol=0)


def test_kl_penalty_is_zero_at_its_target_and_finite_for_dead_and_saturated_maps():
    assert abs(kl_penalty(torch.full((2, 3, 2, 2), 0.2, dtype=torch.float64), 0.2)) < 1e-15
    assert kl_penalty(torch.zeros(2, 3, 2, 2), 0.2).isfinite()
    assert kl_penalty(torch.ones(2, 3, 2, 2), 0.2).isfinite()


@pytest.mark.parametrize(
    "function",
    [
        scaled_tanh,
        *(lambda x, noise=noise: noise(x, 0.5, draw("noise")) for noise in NOISES),
        lambda x: max_pool_with_switches(x, 2)[0],
        lambda x: unpool_with_switches(*max_pool_with_switches(x, 2), 2),
        spatial_winner_take_all,
        lambda x: lifetime_winner_take_all(x, 0.5),
        l1_penalty,
        lambda x: kl_penalty(x, 0.1),
    ],
)
def test_float64_stays_float64(function):
    assert function(uniform(2, 3, 4, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("power", [0.7, 1.0, 1.4])
def test_triangle_is_the_power_of_what_exceeds_the_mean_of_all_maps(power):
    x = normal(2, 5, 3, 3)
    expected = torch.zeros_like(x)
    for n, c, i, j in product(range(2), range(5), range(3), range(3)):
        expected[n, c, i, j] = max(0, float(x[n, c, i, j] - sum(x[n, :, i, j]) / 5)) ** power
    torch.testing.assert_close(triangle(x, power), expected)


@pytest.mark.parametrize("power", [0.7, 1.0, 1.4])
def test_triangle_has_the_gradient_of_its_differences(power):
    x = normal(1, 4, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: triangle(x, power), x)


@pytest.mark.parametrize("power", [1.0, 1.4])
def test_the_gradient_of_triangle_scales_with_its_input(power):
    x = normal(1, 4, 2, 2)
    gradients = []
    for scale in (1.0, 1e-4):
        y = (scale * x).requires_grad_()
        gradients.append(torch.autograd.grad((triangle(y, power) * (1 + x)).sum(), y)[0])
    torch.testing.assert_close(gradients[1], 1e-4 ** (power - 1) * gradients[0])


@pytest.mark.parametrize("power", [0.7, 1.0, 1.4])
def test_where_no_map_is_above_the_mean_triangle_has_no_gradient(power):
    x = torch.ones(1, 4, 2, 2, requires_grad=True)
    triangle(x, power).sum().backward()
    assert x.grad.eq(0).all()


def test_contrast_normalized_patches_have_zero_mean_and_unit_variance():
    patches = 3 * normal(4, 50) + 2
    expected = StandardScaler().fit_transform(patches.numpy().T).T
    torch.testing.assert_close(contrast_normalized(patches, 0.0).numpy(), expected)


@pytest.mark.parametrize("power", [-0.5, 0.5])
def test_the_whitening_power_is_scipys_of_the_regularized_covariance(power):
    covariance = torch.cov(normal(6, 40))
    regularized = covariance + 0.1 * covariance.trace() / 6 * torch.eye(6, dtype=torch.float64)
    expected = fractional_matrix_power(regularized.numpy(), power)
    torch.testing.assert_close(whitening_power(covariance, 0.1, power).numpy(), expected)


def test_info_nce_is_its_sum_over_all_views():
    first, second = normal(3, 4), 2 * normal(3, 4) + 1
    views = [*first, *second]
    total = 0.0
    for i, z in enumerate(views):
        likeness = [math.exp(float(F.cosine_similarity(z, other, dim=0)) / 0.3) for other in views]
        total -= math.log(likeness[(i + 3) % 6] / (sum(likeness) - likeness[i]))
    assert float(info_nce(first, second, 0.3)) == pytest.approx(total / 6)


def test_info_nce_of_views_that_say_nothing_is_that_of_a_guess():
    same = torch.ones(5, 3, dtype=torch.float64)
    assert float(info_nce(same, same, 0.5)) == pytest.approx(math.log(9))


def test_vicreg_is_its_three_terms():
    first, second = 0.3 * normal(6, 3), 0.4 * normal(6, 3) - 1
    invariance = float((first - second).square().sum()) / 18
    variance, covariance = 0.0, 0.0
    for z in (first.numpy(), second.numpy()):
        variance += sum(max(0, 1 - math.sqrt(column.var(ddof=1) + 1e-4)) for column in z.T) / 3 / 2
        matrix = np.cov(z.T)
        covariance += sum(matrix[i, j] ** 2 for i, j in permutations(range(3), 2)) / 3
    expected = 25 * invariance + 25 * variance + covariance
    assert float(vicreg(first, second)) == pytest.approx(expected)


def test_vicreg_of_uncorrelated_equal_views_of_unit_variance_is_zero():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert float(vicreg(z, z)) == pytest.approx(0, abs=1e-12)
