import contextlib
import inspect
import math
from dataclasses import asdict, dataclass, fields

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

from pretrain import (
    AutogradStage,
    Device,
    Layer,
    LayerSettings,
    Metric,
    RunFolder,
    Stack,
    StackSettings,
    Stage,
    Standardize,
    Training,
    UserError,
    Views,
    assemble,
    fit_stage,
    fit_stages,
    layer_rows,
    load_stack_settings,
    output_size,
)
from pretrain.command_line.command import CONF, plain
from pretrain.evaluation.gradient_check import check_stage
from pretrain.pictures.health_panels import draw_health
from pretrain.reporting.training_text import stage_in_words
from pretrain.runs.profiling import profiled
from pretrain.runs.seeding import generator, seeded
from pretrain.training.stack_building import build_stack
from pretrain.training.stage_inputs import Inputs

CHANNELS, FILTERS, SIDE = 2, 5, 16


@dataclass
class Kind:
    """What one YAML of conf/stage describes."""

    name: str

    def __post_init__(self):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = plain(compose(f"stage/{self.name}"))["stage"]
        self.cls = get_class(config.pop("_target_"))
        self.training, self.layer = config.pop("training"), config.pop("layer")
        self.keywords = config

    def build(self, in_channels=CHANNELS):
        own = {**self.keywords, **({"views": Views(**self.keywords["views"])} if "views" in self.keywords else {})}
        with seeded(0, "test"):
            return self.cls(Layer(in_channels, **{**self.layer, "out_channels": FILTERS}), **own)

    def settings(self, steps):
        return Training(**{**self.training, "steps": steps, "batch_size": 16})


@pytest.fixture(params=sorted((CONF / "stage").glob("*.yaml")), ids=lambda file: file.stem)
def kind(request):
    return Kind(request.param.stem)


@pytest.fixture(scope="module")
def fabric():
    return Device(accelerator="cpu", precision="32-true").launch()


def pictures(count=16):
    return torch.rand(count, CHANNELS, SIDE, SIDE, generator=generator(0, "pictures"))


def noise():
    return generator(0, "noise")


def gradients(stage):
    return {name: parameter.grad for name, parameter in stage.named_parameters()}


def train(stage, settings, fabric):
    images = pictures()
    inputs = Inputs(images, nn.Sequential(Standardize.from_images(images)), fabric, settings.steps * 16)
    fit_stage(stage, inputs, settings, seed=0, name="stage 1", fabric=fabric)
    everything = torch.arange(len(images))
    return stage, inputs.views(everything, stage.views, noise()) if stage.views else inputs[everything]


def same_tensors(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_layers_output_has_the_volume_that_the_arithmetic_gives(kind):
    layer = kind.build().layer
    shape = tuple(layer(pictures()).shape[1:])
    options = layer.settings
    conv = output_size(SIDE, options.kernel_size, options.stride, options.padding)
    pooled = output_size(conv, options.pool_kernel_size, options.pool_stride)
    assert shape == (FILTERS, pooled, pooled)
    assert shape == layer_rows({"layer": options}, (CHANNELS, SIDE, SIDE))[-1].shape


def test_the_stage_says_how_many_channels_it_puts_out(kind):
    stage = kind.build()
    assert stage.out_channels == FILTERS == stage.layer(pictures()).shape[1]


def test_metrics_are_finite_floats_and_include_the_monitor(kind):
    stage = kind.build()
    metrics = stage.accumulate_grad(pictures(), noise())
    assert stage.monitor in metrics
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())


def test_every_parameter_gets_a_finite_gradient_and_the_input_stays_as_it_was(kind):
    stage, x = kind.build(), pictures()
    stage.accumulate_grad(x, noise())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(stage).values())
    assert torch.equal(x, pictures())
    assert x.grad is None


def test_no_gradient_reaches_the_layers_below(kind):
    below = Layer(CHANNELS, CHANNELS)
    kind.build().accumulate_grad(below(pictures()), noise())
    assert all(parameter.grad is None for parameter in below.parameters())


def test_the_same_seed_gives_the_same_gradients_to_the_bit(kind):
    first, second = kind.build(), kind.build()
    assert first.accumulate_grad(pictures(), noise()) == second.accumulate_grad(pictures(), noise())
    assert same_tensors(gradients(first), gradients(second))


def test_the_same_seed_gives_the_same_trained_weights_to_the_bit(kind, fabric):
    first, second = (train(kind.build(), kind.settings(steps=5), fabric)[0] for _ in range(2))
    assert same_tensors(first.state_dict(), second.state_dict())
    assert not same_tensors(first.state_dict(), kind.build().state_dict())


def test_a_profile_tells_forward_and_backward_apart_where_there_are_both_and_changes_no_bit(kind, fabric):
    with profiled(fabric) as split:
        measured, _ = train(kind.build(), kind.settings(steps=5), fabric)
    whole = {"forward", "backward"} if isinstance(measured, AutogradStage) else set()
    assert {*split.seconds} >= {"data", "gradient", "optimizer", "logging", "checks", "preparation"} | whole
    assert ("backward" in split.seconds) == bool(whole)
    plain, _ = train(kind.build(), kind.settings(steps=5), fabric)
    assert same_tensors(measured.state_dict(), plain.state_dict())


def test_the_monitor_falls_in_training(kind, fabric):
    once, x = train(kind.build(), kind.settings(steps=1), fabric)
    often, _ = train(kind.build(), kind.settings(steps=60), fabric)
    before, after = (stage.accumulate_grad(x, noise())[stage.monitor] for stage in (once, often))
    assert after < before


def test_a_state_dict_carries_a_trained_stage_over_to_a_fresh_one(kind, fabric):
    trained, x = train(kind.build(), kind.settings(steps=3), fabric)
    fresh = kind.build().eval()
    fresh.load_state_dict(trained.state_dict())
    torch.testing.assert_close(fresh.layer(x), trained.layer(x))
    assert fresh.accumulate_grad(x, noise()) == pytest.approx(trained.accumulate_grad(x, noise()), rel=1e-5)


def test_the_layer_is_deterministic_in_training_mode_too(kind):
    layer = kind.build().train().layer
    assert torch.equal(layer(pictures()), layer(pictures()))


def test_encoding_puts_out_what_the_layer_does_and_decoding_brings_back_the_shape_of_the_input(kind):
    stage = kind.build()
    stage.layer.scale.fill_(3.0)
    y, context = stage.encode(pictures())
    torch.testing.assert_close(y, stage.layer(pictures()))
    with contextlib.suppress(NotImplementedError):
        assert stage.decode(y, context).shape == pictures().shape


def test_the_assembled_network_computes_the_layers_one_after_the_other_times_their_scales(kind):
    images = pictures().double()
    stack = Stack([kind.build(), kind.build(FILTERS)], images).double()
    x = stack.preprocessing(images)
    for stage, scale in zip(stack, (2.5, 0.3), strict=True):
        stage.layer.scale.fill_(scale)
        x = stage.layer.pool(stage.layer.activation(stage.layer.conv(x))) * scale
    network = assemble(stack, ["a", "b", "c"], seed=0).double()
    torch.testing.assert_close(network.layers(network.preprocessing(images)), x)
    torch.testing.assert_close(network.eval()(images), network.head.fc(x.flatten(1)))


def test_the_yaml_lists_the_constructors_keywords_with_their_defaults(kind):
    parameters = dict(inspect.signature(kind.cls).parameters)
    del parameters["layer"]
    views = asdict(Views()) if "views" in parameters else None
    given = {name: views if name == "views" else parameter.default for name, parameter in parameters.items()}
    assert kind.keywords == given


def test_the_yaml_of_a_layer_lists_its_settings_with_their_defaults():
    written = OmegaConf.to_container(OmegaConf.load(CONF / "layer" / "convolution.yaml"))
    settings = {field.name: field.default for field in fields(LayerSettings) if field.name != "in_channels"}
    assert written == {**settings, "out_channels": written["out_channels"]}


def test_the_yaml_of_training_lists_its_settings_with_their_defaults():
    written = OmegaConf.to_container(OmegaConf.load(CONF / "training" / "adamw.yaml"))
    assert written == asdict(Training())


def test_the_yamls_training_block_lists_all_that_can_be_set(kind):
    assert set(kind.training) == {field.name for field in fields(Training)}
    assert Training(**kind.training).steps >= 1


class Averaging(AutogradStage):
    """A kind of stage of this file's own: it brings the mean of each map to one."""

    description = "a layer that averages its inputs"
    metrics = (Metric("gap", "gap to the mean", held_out=True), *Stage.metrics)

    def __init__(self, layer, *, weight: float = 1.0):
        super().__init__(layer)
        self.weight = weight

    def losses(self, x, generator):
        gap = (self.layer.conv(x).mean(dim=(0, 2, 3)) - 1).square().sum()
        return {"loss": self.weight * gap, "gap": gap}


def averaging_settings():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        base = plain(compose("stage/kmeans"))["stage"]
    target = {"_target_": f"{__name__}.Averaging", "weight": 0.5}
    return {**target, "layer": {**base["layer"], "out_channels": 3}, "training": {"steps": 40}}


def averaging_stack(images):
    return build_stack(StackSettings("averages", {"only": averaging_settings()}, normalization="none"), images, seed=0)


def test_a_kind_of_ones_own_is_measured_on_held_out_images_and_drawn(fabric, tmp_path):
    images, others = pictures(), torch.rand(12, CHANNELS, SIDE, SIDE, generator=generator(1))
    plan, folder = averaging_stack(images), RunFolder.open(tmp_path / "run", {})
    fit_stages(plan.stack, images, plan.training, fabric=fabric, folder=folder, held_out=others)
    rows = folder.metrics()
    maps = plan.stack[0].layer.conv(plan.stack.preprocessing(others))
    expected = (maps.mean(dim=(0, 2, 3)) - 1).square().sum()
    assert rows[-1]["held_out_gap"] == pytest.approx(float(expected.detach()), rel=1e-4)
    figure = draw_health(rows, "Stage 1", plan.stack[0].metrics)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    common = ["hidden units", "norm of the weights", "update size, relative to the weights"]
    assert list(panels) == ["gap to the mean", *common]
    lines = {line.get_label(): line.get_ydata()[-1] for line in panels["gap to the mean"].lines}
    assert lines == {"training": rows[-1]["gap"], "held out": rows[-1]["held_out_gap"]}


def test_a_kind_of_ones_own_has_its_gradients_checked():
    plan = averaging_stack(pictures())
    (rows,) = check_stage(plan.stack[0], pictures()).values()
    assert {row.parameter for row in rows} == {"layer.conv.weight", "layer.conv.bias"}
    assert max(row.relative_error for row in rows) < 1e-5


def test_a_kind_of_ones_own_is_described_in_its_words():
    described = stage_in_words(1, averaging_settings())
    assert described.startswith("Stage 1: a layer that averages its inputs, 3 maps, filters of 5x5, pooled over 2x2 (")
    assert "weight=0.5" in described


def test_a_kind_without_a_description_is_described_by_its_name():
    class Nameless(Averaging):
        pass

    assert Nameless.description == "Nameless"


@pytest.mark.parametrize(
    ("stack", "stage", "change", "message"),
    [
        (
            "cae",
            "stage1",
            {"layer": {"kernal_size": 3}},
            "layer.kernal_size: there is no such setting; did you mean kernel",
        ),
        ("cae", "stage1", {"layer": {"in_channels": 3}}, "layer.in_channels: there is no such setting"),
        ("cae", "stage1", {"corrupton": "masking"}, "corrupton: there is no such setting; did you mean corruption"),
        ("cae", "stage1", {"training": {"step": 3}}, "training.step: there is no such setting; did you mean steps"),
        ("contrastive", "stage1", {"views": {"sise": 3}}, "views.sise: there is no such setting; did you mean size"),
        ("contrastive", "stage1", {"views": {"crop": 0}}, "views.crop=0: it must be a number from 0.01 to 1"),
        ("cae", "stage1", {"layer": {"stride": "two"}}, "layer.stride=two: it must be a whole number"),
        ("cae", "stage1", {"layer": {"stride": 0}}, "layer.stride=0: it must be a whole number from 1"),
    ],
)
def test_a_mistake_is_named_by_its_path_in_the_configuration(configure, stack, stage, change, message):
    config = load_stack_settings(stack)
    for key, value in change.items():
        old = config.stages[stage].get(key)
        config.stages[stage][key] = {**old, **value} if isinstance(value, dict) else value
    with pytest.raises(UserError) as caught:
        build_stack(config, pictures().repeat(1, 2, 2, 2)[:, :3], seed=0)
    assert str(caught.value).startswith(f"stack.stages.{stage}.{message}")
