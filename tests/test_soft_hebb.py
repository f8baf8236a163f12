import pytest
import torch
import torch.nn.functional as F

from pretrain import Layer, SoftHebb, UserError
from pretrain.runs.seeding import generator, seeded


def build(**options):
    with seeded(0, "test"):
        return SoftHebb(Layer(2, 5, activation="triangle"), **options).double()


def inputs(count=3):
    return torch.randn(count, 2, 6, 6, generator=generator(0, "inputs"), dtype=torch.float64)


def by_the_rule(stage, x):
    """Sum s y (patch - u w) over images and positions, one at a time."""
    w = stage.layer.conv.weight.detach().flatten(1)
    change = torch.zeros_like(w)
    for patch in F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, w.shape[1]):
        u = w @ patch
        y = (u / stage.temperature).exp() / (u / stage.temperature).exp().sum()
        for k in range(len(w)):
            sign = 1 if k == u.argmax() else -1
            change[k] += sign * y[k] * (patch - u[k] * w[k])
    return change


def test_the_update_is_the_rules_up_to_its_rate():
    stage, x = build(radius=1.0, temperature=0.7), inputs()
    metrics = stage.accumulate_grad(x, generator(0))
    change, gap = by_the_rule(stage, x), (1 - stage.layer.conv.weight.detach().flatten(1).norm(dim=1)).abs()
    expected = -change / change.abs().max() * gap.sqrt()[:, None]
    torch.testing.assert_close(stage.layer.conv.weight.grad.flatten(1), expected)
    torch.testing.assert_close(torch.tensor(metrics["norm_gap"]).double(), gap.mean())
    assert not stage.layer.conv.bias.grad.any()


def test_a_filter_of_unit_norm_has_converged():
    stage = build()
    with torch.no_grad():
        stage.layer.conv.weight[2] = F.normalize(stage.layer.conv.weight[2].flatten(), dim=0).view(2, 3, 3)
    stage.accumulate_grad(inputs(), generator(0))
    assert stage.layer.conv.weight.grad[2].abs().max() < 1e-7  # the square root of a rounding error
    assert stage.layer.conv.weight.grad[1].abs().max() > 0.1


def test_filters_start_at_the_radius_asked_for():
    with seeded(0):
        norms = (
            SoftHebb(Layer(3, 400, kernel_size=5, activation="triangle"), radius=25.0)
            .layer.conv.weight.flatten(1)
            .norm(dim=1)
        )
    assert abs(norms.square().mean().sqrt() - 25) < 5 * 25 / (2 * 400 * 75) ** 0.5


def test_a_hard_competition_has_one_winner():
    metrics = build(temperature=0.01).accumulate_grad(inputs(), generator(0))
    assert metrics["winner"] > 0.99


def test_another_activation_than_the_competition_is_refused():
    with pytest.raises(UserError, match=r"layer\.activation=relu: this kind of stage needs triangle"):
        SoftHebb(Layer(2, 5))
