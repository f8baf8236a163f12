import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pretrain import Callback, RunFolder, Training, UserError
from pretrain.stages.base import not_finite
from pretrain.training.checkpointing import Checkpointing
from pretrain.training.data_parallel import equal_part
from pretrain.training.diagnosis import Diagnosis
from pretrain.training.early_stopping import EarlyStopping
from pretrain.training.metric_logging import MetricLogging
from pretrain.training.minibatches import BatchOrder
from pretrain.training.optimizers import build_optimizer
from pretrain.training.periodic_evaluation import PeriodicEvaluation
from pretrain.training.schedules import Schedule, schedule_factor
from pretrain.training.trainer import Trainer


def test_cosine_schedule_is_torchs_after_the_warm_up():
    training = Training(warmup=0.0)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        assert schedule_factor(step, training, 50) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_linearly_to_the_full_rate():
    training = Training(warmup=0.1, schedule="constant")
    factors = [schedule_factor(step, training, 40) for step in range(6)]
    assert factors == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1])


def test_each_phase_of_a_schedule_warms_up_its_rate_and_its_momentum():
    training = Training(steps=12, learning_rate=0.5, warmup=0.5, schedule="constant", initial_momentum=0.1)
    schedule = Schedule(training, multiplier=2.0, first_phase=4)
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


def trainer(fabric, module, compute_gradients, *callbacks, steps=10):
    training = Training(steps=steps, optimizer="sgd", learning_rate=0.1, warmup=0.0, schedule="constant")
    groups = [{"params": list(module.parameters()), "schedule": Schedule(training)}]
    return Trainer(
        name="x",
        module=module,
        optimizer=build_optimizer(groups, training),
        training=training,
        compute_gradients=compute_gradients,
        seed=0,
        fabric=fabric,
        callbacks=callbacks,
    )


def test_the_loop_is_torchs_own_sgd(fabric):
    def gradients(network):
        def compute(step):
            loss = (network(torch.ones(1, 3)) - step).square().sum()
            loss.backward()
            return {"loss": float(loss.detach())}

        return compute

    mine, theirs = nn.Linear(3, 1), nn.Linear(3, 1)
    theirs.load_state_dict(mine.state_dict())
    trainer(fabric, mine, gradients(mine)).fit()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step in range(10):
        optimizer.zero_grad()
        gradients(theirs)(step)
        optimizer.step()
    assert torch.equal(mine.weight, theirs.weight)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_learning_rate(fabric):
    with pytest.raises(UserError, match=r"lower learning_rate=0\.1"):
        trainer(fabric, nn.Linear(1, 1), lambda step: {"loss": math.nan if step else 1.0}, Diagnosis(not_finite)).fit()


def test_the_learning_rate_is_not_blamed_for_the_loss_before_the_first_update(fabric):
    with pytest.raises(UserError, match=r"step 1 .* a lower learning rate does not help"):
        trainer(fabric, nn.Linear(1, 1), lambda step: {"loss": math.inf}, Diagnosis(not_finite), steps=1).fit()


def grow(module, value=math.inf, at=0):
    """Return a function that sets the gradient of one weight to `value` at one step, and others to nothing."""

    def compute(step):
        module.weight.grad = torch.zeros_like(module.weight)
        module.weight.grad[0, 0] = value if step == at else 0.0
        return {"loss": 1.0}

    return compute


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_weights_that_diverge_in_the_last_step_are_no_success(fabric, steps):
    module = nn.Linear(2, 1)
    with pytest.raises(UserError, match=rf"x, step {steps}: weight has values .*: lower learning_rate=0\.1"):
        trainer(fabric, module, grow(module, at=steps - 1), Diagnosis(not_finite), steps=steps).fit()


def test_weights_that_diverge_do_not_replace_a_good_checkpoint(fabric, tmp_path):
    module, folder = nn.Linear(2, 1), RunFolder.open(tmp_path / "run", {})
    log = [Checkpointing(folder, every=0.0), Diagnosis(not_finite, every=1000)]
    with pytest.raises(UserError, match="an earlier checkpoint stays"):
        trainer(fabric, module, grow(module, at=4), *log, steps=50).fit()
    kept = folder.load("checkpoint")
    assert kept["step"] == 4
    assert all(tensor.isfinite().all() for tensor in kept["module"].values())


def test_weights_that_diverge_before_an_early_stop_are_no_success(fabric):
    module = nn.Linear(2, 1)

    class Stop(Callback):
        def should_stop(self, trainer):
            return trainer.step == 3

    with pytest.raises(UserError, match="step 3: weight has values"):
        trainer(fabric, module, grow(module, at=2), Diagnosis(not_finite), Stop()).fit()


def test_weights_to_start_from_must_be_numbers(fabric):
    module = nn.Linear(2, 1)
    nn.init.constant_(module.bias, math.nan)
    with pytest.raises(UserError, match="x, before step 1: bias has values"):
        trainer(fabric, module, grow(module, 0.0), Diagnosis(not_finite)).fit()


def test_weight_decay_is_named_where_it_alone_is_at_fault(fabric):
    module = nn.Linear(2, 1)
    training = Training(steps=300, optimizer="sgd", learning_rate=0.1, weight_decay=1e3, warmup=0.0)
    groups = [{"params": list(module.parameters()), "schedule": Schedule(training)}]
    run = trainer(fabric, module, grow(module, 0.0), Diagnosis(not_finite))
    run.training, run.optimizer = training, build_optimizer(groups, training)
    with pytest.raises(UserError, match="lower weight_decay=1000"):
        run.fit()


def test_a_rate_beyond_the_numbers_of_torch_is_a_line(fabric):
    rate = 1e38
    module, training = nn.Linear(2, 1), Training(learning_rate=rate, warmup=0.0)
    groups = [{"params": list(module.parameters()), "schedule": Schedule(training)}]
    run = trainer(fabric, module, grow(module, 1.0), Diagnosis(not_finite))
    run.training, run.optimizer = training, build_optimizer(groups, training)
    with pytest.raises(UserError, match=re.escape(f"x, step 1: learning_rate={rate:g} and weight_decay=0 make")):
        run.fit()


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

    evaluation = PeriodicEvaluation(evaluate, every=2)
    stopping = EarlyStopping(evaluation, "val_accuracy", patience=2, impatient_from=start)
    run = trainer(fabric, module, compute, evaluation, stopping, steps=50)
    run.fit()
    assert run.step == steps
    assert torch.equal(module.weight, seen[best])


class Interruption(Callback):
    """Interrupts a run before one of its steps."""

    def __init__(self, step):
        self.step = step

    def before_step(self, trainer):
        if trainer.step == self.step:
            raise KeyboardInterrupt


def test_an_interrupted_run_logs_and_ends_as_an_uninterrupted_one(fabric, tmp_path):
    def run(folder, *others):
        module = nn.Linear(2, 1, bias=False)
        module.load_state_dict({"weight": torch.ones(1, 2)})

        def compute(step):
            module.weight.grad = module.weight.detach() + step
            return {"loss": float(step)}

        evaluation = PeriodicEvaluation(lambda: {"size": -abs(float(module.weight.detach().sum()))}, every=3)
        stopping = EarlyStopping(evaluation, "size", patience=2)
        log = [Checkpointing(folder, every=0.0), MetricLogging(folder, every=2)]
        run = trainer(fabric, module, compute, *log, evaluation, stopping, *others)
        run.fit()
        return run, module.weight.detach(), [{**row, "seconds": None} for row in folder.metrics()]

    whole, expected, rows = run(RunFolder.open(tmp_path / "whole", {}))
    folder = RunFolder.open(tmp_path / "parts", {})
    for step in (4, 7):
        with pytest.raises(KeyboardInterrupt):
            run(folder, Interruption(step))
    resumed, weights, logged = run(folder)
    assert (resumed.step, logged) == (whole.step, rows)
    assert torch.equal(weights, expected)


def test_the_update_ratio_is_that_of_sgds_step(fabric, tmp_path):
    module = nn.Linear(2, 1)
    module.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1)})

    def compute(step):
        module.weight.grad, module.bias.grad = torch.tensor([[0.0, 1.0]]), torch.ones(1)
        return {"loss": 0.0}

    folder = RunFolder.open(tmp_path / "run", {})
    trainer(fabric, module, compute, MetricLogging(folder), steps=1).fit()
    (row,) = folder.metrics()
    # Nesterov's first step is 1 + momentum times the gradient.
    assert row["update_ratio"] == pytest.approx(0.1 * 1.9 / 5)


def test_the_parts_of_a_batch_are_equal_and_disjoint():
    several = [SimpleNamespace(world_size=3, global_rank=rank) for rank in range(3)]
    parts = [equal_part(fabric, {"batch_size": 6}).take(torch.arange(6)) for fabric in several]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert torch.cat(parts).sort().values.tolist() == list(range(6))
    with pytest.raises(UserError, match="batch_size=5 cannot be shared out equally"):
        equal_part(several[0], {"batch_size": 5})


def test_an_evaluation_that_is_no_number_stops_the_run(fabric):
    module = nn.Linear(2, 1)
    evaluation = PeriodicEvaluation(lambda: {"fine": 1.0, "free_energy": math.inf}, every=2)
    with pytest.raises(UserError, match=r"x, step 2 \(free_energy inf\): not a finite .*lower learning_rate=0\.1"):
        trainer(fabric, module, grow(module, 0.0), Diagnosis(not_finite), evaluation).fit()


def test_weights_of_zero_have_an_update_ratio(fabric, tmp_path):
    module, folder = nn.Linear(2, 1), RunFolder.open(tmp_path / "run", {})
    nn.init.zeros_(module.weight)
    trainer(fabric, module, grow(module, 0.0), MetricLogging(folder), steps=1).fit()
    assert folder.metrics()[0]["update_ratio"] == 0.0
