import math

import pytest
import torch
from torch import nn

from pretrain import Training, UserError
from pretrain.training.minibatches import BatchOrder
from pretrain.training.optimizers import build_optimizer
from pretrain.training.schedules import Schedule, schedule_factor
from pretrain.training.trainer import Trainer


def test_cosine_schedule_is_torchs_after_the_warm_up():
    settings = Training(warmup=0.0)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        assert schedule_factor(step, settings, 50) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_linearly_to_the_full_rate():
    settings = Training(warmup=0.1, schedule="constant")
    factors = [schedule_factor(step, settings, 40) for step in range(6)]
    assert factors == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1])


def test_each_phase_of_a_schedule_warms_up_its_rate_and_its_momentum():
    settings = Training(steps=12, learning_rate=0.5, warmup=0.5, schedule="constant", initial_momentum=0.1)
    schedule = Schedule(settings, multiplier=2.0, first=4)
    assert [schedule.rate(step) for step in range(12)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 1, 1]
    )
    assert [schedule.momentum(step) for step in range(12)] == [0.1, 0.1, 0.9, 0.9, *[0.1] * 4, *[0.9] * 4]


def test_a_pass_shows_each_image_once_and_the_next_in_another_order():
    order = BatchOrder(12, 4, seed=0, name="x")
    first, second = (torch.cat([order(step) for step in steps]) for steps in ((0, 1, 2), (3, 4, 5)))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(12))
    assert not torch.equal(first, second)


def test_a_step_has_the_same_batch_whether_or_not_others_came_before():
    expected = BatchOrder(50, 8, 3, "x")
    for step in range(20):
        expected(step)
    assert torch.equal(BatchOrder(50, 8, 3, "x")(20), expected(20))


def test_fewer_images_than_a_batch_are_all_shown():
    assert BatchOrder(3, 8, 0, "x")(5).sort().values.tolist() == [0, 1, 2]


def test_biases_are_not_decayed():
    network = nn.Linear(3, 2)
    optimizer = build_optimizer([{"params": list(network.parameters())}], Training(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert (decay[id(network.weight)], decay[id(network.bias)]) == (0.1, 0.0)


def loop(fabric, module, compute_gradients, **options):
    plain = {"optimizer": "sgd", "learning_rate": 0.1, "warmup": 0.0, "schedule": "constant"}
    settings = Training(steps=options.pop("steps", 10), **plain)
    groups = [{"params": list(module.parameters()), "schedule": Schedule(settings)}]
    return Trainer("x", module, build_optimizer(groups, settings), settings, compute_gradients, 0, fabric, **options)


def test_the_loop_is_torchs_own_sgd(fabric):
    def gradients(network):
        def compute(step):
            loss = (network(torch.ones(1, 3)) - step).square().sum()
            loss.backward()
            return {"loss": float(loss.detach())}

        return compute

    mine, theirs = nn.Linear(3, 1), nn.Linear(3, 1)
    theirs.load_state_dict(mine.state_dict())
    loop(fabric, mine, gradients(mine)).run()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step in range(10):
        optimizer.zero_grad()
        gradients(theirs)(step)
        optimizer.step()
    assert torch.equal(mine.weight, theirs.weight)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_learning_rate(fabric):
    with pytest.raises(UserError, match=r"lower learning_rate=0\.1"):
        loop(fabric, nn.Linear(1, 1), lambda step: {"loss": math.nan}).run()


@pytest.mark.parametrize(
    ("values", "start", "steps", "best"),
    [
        ([0.1, 0.5, 0.7, 0.6, 0.6, 0.9], 0, 8, 2),
        ([0.8, 0.5, 0.7, 0.9], 0, 4, 0),
        ([0.8, 0.5, 0.7, 0.7, 0.9, 0.6, 0.6], 4, 12, 4),
    ],
)
def test_early_stopping_goes_back_to_the_best_or_to_the_start(fabric, values, start, steps, best):
    module = nn.Linear(1, 1, bias=False)
    accuracies = iter(values)
    seen = []

    def compute(step):
        module.weight.grad = -torch.ones(1, 1)
        return {"loss": 1.0}

    def evaluate():
        seen.append(module.weight.detach().clone())
        return {"val_accuracy": next(accuracies)}

    checks = {"evaluate": evaluate, "evaluate_every": 2, "best": "val_accuracy", "patience": 2}
    run = loop(fabric, module, compute, steps=50, **checks, impatient_from=start)
    run.run()
    assert run.step == steps
    assert torch.equal(module.weight, seen[best])
