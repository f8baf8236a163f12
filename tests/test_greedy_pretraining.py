import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import pretrain
from pretrain import Callback, Layer, RunFolder, UserError, Views, fit_stages
from pretrain.command_line.command import CONF
from pretrain.runs.seeding import generator
from pretrain.training import stage_inputs
from pretrain.training.checkpointing import Checkpointing
from pretrain.training.greedy_pretraining import load_stack
from pretrain.training.kept_inputs import InputFile
from pretrain.training.stack_building import build_stack
from pretrain.training.stage_inputs import Inputs

TRAINING = pretrain.Training(steps=12, batch_size=16)
RULE = pretrain.Training(steps=12, batch_size=16, optimizer="sgd")
OTHERS = [RULE, TRAINING, RULE]  # of `other_kinds`
PROBABILISTIC = {"activation": "sigmoid", "pooling": "probabilistic"}


def bits(module):
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_stage_learns_from_the_output_of_the_trained_layers_below(stack, digits, fabric):
    fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric, upto=1)
    inputs = Inputs(digits.unlabelled, stack.below(1), fabric, draws=10**6)
    positions = torch.tensor([5, 900, 31])
    expected = stack[0].layer(stack.preprocessing(digits.unlabelled[positions]))
    assert inputs.kept is not None
    torch.testing.assert_close(inputs[positions], expected.detach())


def test_kept_inputs_are_those_computed_for_each_batch(stack, digits, fabric):
    kept, computed = (Inputs(digits.unlabelled, stack.below(1), fabric, draws=draws) for draws in (10**6, 1))
    assert computed.kept is None
    positions = torch.arange(100, 140)
    torch.testing.assert_close(kept[positions], computed[positions])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_inputs_in_a_file_have_the_bits_of_those_in_memory(stack, digits, tmp_path, monkeypatch, precision):
    fabric = pretrain.Device(precision=precision).launch()
    below = stack.below(1)
    in_memory = Inputs(digits.unlabelled, below, fabric, draws=10**6)
    monkeypatch.setitem(stage_inputs.KEPT_BYTES, "cpu", 0)
    monkeypatch.setattr(stage_inputs, "keeping_is_cheaper", lambda *_: True)
    in_file = Inputs(digits.unlabelled, below, fabric, draws=10**6, folder=tmp_path)
    assert isinstance(in_file.kept, InputFile)
    assert not [*tmp_path.iterdir()]
    positions = torch.randperm(len(digits.unlabelled))[:300]
    in_file.will_need(positions)
    assert torch.equal(in_file[positions], in_memory[positions])
    computed = Inputs(digits.unlabelled, below, fabric, draws=1)
    assert torch.equal(in_file[positions], computed[positions])


def test_two_views_of_each_image_pass_the_layers_below(stack, digits, fabric):
    inputs, positions = Inputs(digits.unlabelled, stack.below(1), fabric, draws=0), torch.tensor([3, 500, 7])
    nothing = Views(crop=1.0, flip=False, jitter=0.0)
    both = inputs.views(positions, nothing, generator(0))
    torch.testing.assert_close(both, inputs[positions].repeat(2, 1, 1, 1), rtol=1e-4, atol=1e-4)
    first, second = inputs.views(positions, Views(), generator(0)).chunk(2)
    assert not torch.allclose(first, second)


def test_what_learns_from_views_keeps_no_inputs(digits, fabric, monkeypatch):
    draws = []
    original = Inputs.__init__
    monkeypatch.setattr(Inputs, "__init__", lambda *given: draws.append(given[4]) or original(*given))
    fit_stages(other_kinds(digits.unlabelled), digits.unlabelled, OTHERS, fabric=fabric)
    assert draws == [12 * 16, 0, 12 * 16]


def test_training_a_stage_leaves_those_below_alone(stack, digits, fabric, tmp_path):
    folder = RunFolder.open(tmp_path / "run", {})
    fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric, folder=folder, upto=1)
    before = bits(stack[0])
    untrained = bits(stack[1])
    fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric, folder=folder)
    assert not same(bits(stack[1]), untrained)
    assert same(bits(stack[0]), before)


def test_what_a_stage_cannot_do_is_said_before_any_is_trained(digits, fabric):
    stack = other_kinds(digits.unlabelled)
    before = bits(stack)
    with pytest.raises(UserError, match="stage 3, SoftHebb: it learns by a rule"):
        fit_stages(stack, digits.unlabelled, [RULE, TRAINING, TRAINING], fabric=fabric)
    assert same(bits(stack), before)


def test_each_trained_layer_has_unit_variance(stack, digits, fabric):
    fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric)
    x = stack.preprocessing(digits.unlabelled[:])
    for stage in stack:
        x = stage.layer(x)
        assert float(x.detach().std()) == pytest.approx(1, abs=1e-3)


def test_without_rescaling_the_layers_keep_their_own_scale(digits, fabric):
    stack = pretrain.Stack([pretrain.ConvAutoencoder(Layer(1, 4))], digits.unlabelled, normalization="none")
    fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric)
    assert (stack[0].layer.scale == 1).all()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(stack, digits, fabric):
    stacks = [copy.deepcopy(stack) for _ in range(3)]
    for each, seed in zip(stacks, (0, 0, 1), strict=True):
        fit_stages(each, digits.unlabelled, TRAINING, seed=seed, fabric=fabric)
    assert same(bits(stacks[0]), bits(stacks[1]))
    assert not same(bits(stacks[0]), bits(stacks[2]))


class Interrupted(Exception):
    pass


class StepCount(Callback):
    """Counts the steps of all stages, and interrupts training after so many of them."""

    def __init__(self, limit=None):
        self.steps, self.limit = 0, limit

    def before_step(self, trainer):
        if self.steps == self.limit:
            raise Interrupted
        self.steps += 1


def other_kinds(images):
    torch.manual_seed(0)
    sizes = {"projection_hidden": 8, "projection_size": 4}
    return pretrain.Stack(
        [
            pretrain.KMeans(Layer(1, 8)),
            pretrain.Contrastive(Layer(8, 6), views=Views(flip=False, crop=0.6), **sizes),
            pretrain.SoftHebb(Layer(6, 5, activation="triangle", pool_kernel_size=1)),
        ],
        images,
        normalization="standardize",
    )


def rbms(images):
    """What they keep from batch to batch are chains, and running means."""
    torch.manual_seed(0)
    chains = {"sampler": "pt", "chains": 5, "temperatures": 3, "sparsity": "hinton"}
    return pretrain.Stack(
        [
            pretrain.ConvRBM(Layer(1, 6, **PROBABILISTIC), **chains),
            pretrain.ConvRBM(Layer(6, 4, **PROBABILISTIC), centered=True),
        ],
        images,
    )


@pytest.mark.parametrize(
    ("kinds", "at"),
    [
        ("one", 5),
        ("one", 12),
        ("one", 17),
        ("others", 6),
        ("others", 20),
        ("others", 30),
        ("rbms", 6),
        ("rbms", 17),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(stack, digits, fabric, tmp_path, kinds, at):
    build, training = {
        "one": (lambda _: stack, TRAINING),
        "others": (other_kinds, OTHERS),
        "rbms": (rbms, pretrain.Training(steps=12, batch_size=16, optimizer="sgd", learning_rate=0.01)),
    }[kinds]
    stack = build(digits.unlabelled)
    whole = copy.deepcopy(stack)
    fit_stages(whole, digits.unlabelled, training, fabric=fabric)

    folder = RunFolder.open(tmp_path / "run", {})
    first, resumed = copy.deepcopy(stack), copy.deepcopy(stack)
    callbacks = [Checkpointing(folder, every=0.0), StepCount(at)]
    with pytest.raises(Interrupted):
        fit_stages(first, digits.unlabelled, training, fabric=fabric, folder=folder, callbacks=callbacks)
    rest = StepCount()
    fit_stages(resumed, digits.unlabelled, training, fabric=fabric, folder=folder, callbacks=[rest])
    assert same(bits(whole), bits(resumed))
    assert rest.steps == 12 * len(stack) - at


def test_a_rule_takes_its_own_steps(digits, fabric):
    stack = pretrain.Stack([pretrain.KMeans(Layer(1, 4))], digits.unlabelled)
    training = pretrain.Training(steps=1, optimizer="adamw")
    with pytest.raises(UserError, match="stage 1, KMeans: it learns by a rule, not a gradient"):
        fit_stages(stack, digits.unlabelled, training, fabric=fabric)


def test_what_cannot_be_shared_out_equally_is_refused_before_anything_is_computed(digits):
    inputs = Inputs(digits.unlabelled, nn.Sequential(pretrain.Standardize.identity(1)), pretrain.Device().launch(), 0)
    several = SimpleNamespace(world_size=2, global_rank=0)
    rbm = pretrain.ConvRBM(Layer(1, 4, activation="sigmoid"), sampler="pcd", chains=3)
    for stage, size, reason in ((pretrain.KMeans(Layer(1, 4)), 3, "batch_size=3"), (rbm, 4, "chains=3")):
        training = pretrain.Training(steps=1, batch_size=size, optimizer="sgd")
        with pytest.raises(UserError, match=rf"{reason} cannot be shared out equally .*: give a multiple of 2"):
            pretrain.fit_stage(stage, inputs, training, seed=0, name="stage 1", fabric=several)


def test_a_call_for_one_stage_more_goes_on_from_there(stack, digits, fabric, tmp_path):
    whole = copy.deepcopy(stack)
    fit_stages(whole, digits.unlabelled, TRAINING, fabric=fabric)
    folder = RunFolder.open(tmp_path / "run", {})
    first = fit_stages(copy.deepcopy(stack), digits.unlabelled, TRAINING, fabric=fabric, folder=folder, upto=1)
    second = fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric, folder=folder)
    assert [result.name for result in (*first, *second)] == ["stage 1", "stage 2"]
    assert same(bits(whole), bits(stack))


def test_a_checkpoint_of_another_stack_is_refused(stack, digits, fabric, tmp_path):
    folder = RunFolder.open(tmp_path / "run", {})
    fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric, folder=folder)
    other = pretrain.Stack([pretrain.ConvAutoencoder(Layer(1, 5))], digits.unlabelled)
    with pytest.raises(UserError, match="another stack"):
        load_stack(other, folder.load("stack"))


STACKS = sorted(file.stem for file in (CONF / "stack").glob("*.yaml"))


def small_stack(name, images, *overrides, steps=3):
    """Return the plan of a stack of conf/ with few maps and steps."""
    stages = pretrain.load_stack_settings(name).stages
    small = [
        f"stack.stages.{stage}.{setting}"
        for stage in stages
        for setting in ("layer.out_channels=6", f"training.steps={steps}", "training.batch_size=8")
    ]
    return build_stack(pretrain.load_stack_settings(name, *small, *overrides), images, 0)


def random_images(count, *, side=32, colors=False):
    shape = (count, 3, 1, 1) if colors else (count, 3, side, side)
    images = torch.randint(256, shape, generator=generator(0, "images"), dtype=torch.uint8)
    return images.expand(count, 3, side, side).contiguous()


def finite(module):
    return all(tensor.isfinite().all() for tensor in module.state_dict().values())


@pytest.mark.parametrize("rate", ["1e30", "1e38"])
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_that_diverges_is_a_line_and_leaves_no_weights(name, rate, fabric, tmp_path):
    images, folder = random_images(8), RunFolder.open(tmp_path / "run", {})
    first = next(iter(pretrain.load_stack_settings(name).stages))

    def train():
        # Some kinds of stage refuse such a rate at once.
        plan = small_stack(name, images, f"stack.stages.{first}.training.learning_rate={rate}")
        fit_stages(plan.stack, images, plan.training, fabric=fabric, folder=folder)

    with pytest.raises(UserError, match=r"stage ?1.*learning.rate"):
        train()
    assert not (folder.path / "stack.safetensors").exists()
    assert not (folder.path / "checkpoint.safetensors").exists()


class Spoiled(pretrain.ConvAutoencoder):
    """An autoencoder whose last look at the data spoils a bias."""

    def finish(self, images):
        self.visible_bias.data.fill_(torch.nan)


def test_what_a_stage_does_after_its_last_step_is_checked(digits, fabric, tmp_path):
    stack = pretrain.Stack([Spoiled(Layer(1, 4))], digits.unlabelled)
    folder = RunFolder.open(tmp_path / "run", {})
    with pytest.raises(UserError, match="stage 1, after its last step: visible_bias has values"):
        fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric, folder=folder)
    assert not (folder.path / "stack.safetensors").exists()


@pytest.mark.parametrize("gray", [0, 127])
@pytest.mark.parametrize("name", STACKS)
def test_images_of_one_color_are_told_what_they_are(name, gray, fabric):
    images = torch.full((9, 3, 32, 32), gray, dtype=torch.uint8)
    plan = small_stack(name, images)
    with pytest.raises(UserError, match=f"each of the 9 unlabelled images is of the same .*color .{gray}, {gray}"):
        fit_stages(plan.stack, images, plan.training, fabric=fabric)


@pytest.mark.parametrize("kind", ["a color each", "two equal", "one", "all but one black"])
@pytest.mark.parametrize("name", STACKS)
def test_few_and_flat_images_give_layers_of_numbers(name, kind, fabric):
    images = {
        "a color each": random_images(9, colors=True),
        "two equal": random_images(1).expand(2, -1, -1, -1).contiguous(),
        "one": random_images(1),
        "all but one black": torch.cat([random_images(1), torch.zeros(8, 3, 32, 32, dtype=torch.uint8)]),
    }[kind]
    plan = small_stack(name, images)
    if kind == "one" and any(stage.least_batch > 1 for stage in plan.stack):
        with pytest.raises(UserError, match="with 1 unlabelled images: it compares the images of a batch"):
            fit_stages(plan.stack, images, plan.training, fabric=fabric)
        return
    fit_stages(plan.stack, images, plan.training, fabric=fabric)
    network = pretrain.assemble(plan.stack, ["a", "b"], seed=0)
    assert finite(plan.stack)
    assert network.predict_proba(images).sum(dim=1).tolist() == pytest.approx([1.0] * len(images))


def test_most_maps_dead_is_said_at_the_end_of_a_stage(digits, fabric, capsys):
    stack = pretrain.Stack([pretrain.ConvAutoencoder(Layer(1, 4, activation="relu"))], digits.unlabelled)
    stack[0].layer.conv.bias.data[:3] = -1e3
    fit_stages(stack, digits.unlabelled, TRAINING, fabric=fabric)
    assert "note: stage 1: 75% of its maps are dead: lower learning_rate=0.001" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["scale", "standardize"])
def test_a_layer_whose_maps_are_constants_is_refused(how):
    layer = Layer(1, 3)
    torch.nn.init.zeros_(layer.conv.weight)
    layer.conv.bias.data.copy_(torch.tensor([0.1, 2.0, 30.0]))
    with pytest.raises(UserError, match="the same everywhere"):
        layer.normalize(torch.rand(20, 1, 8, 8), how)
