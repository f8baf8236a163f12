import pytest
import torch
import torch.nn.functional as F

from pretrain import ConvAutoencoder, ConvNet, Layer, Stack, UserError, assemble
from pretrain.network.activations import ACTIVATION_MODULES
from pretrain.network.convnet import set_trainable
from pretrain.network.layer_settings import ACTIVATIONS
from pretrain.runs.seeding import generator, seeded
from pretrain.runs.tensor_files import save_state
from pretrain.stages.convnet_assembly import normalize_layers

CLASSES = ["ant", "bee", "cow", "dog"]


def pictures(count=12, side=8):
    return torch.randint(256, (count, 3, side, side), generator=generator(0, "pictures"), dtype=torch.uint8)


def small_stack(activation="relu", **options):
    with seeded(0, "stack"):
        stages = [
            ConvAutoencoder(Layer(3, 4, activation=activation)),
            ConvAutoencoder(Layer(4, 5, activation=activation)),
        ]
    stack = Stack(stages, pictures(), **options)
    normalize_layers([stage.layer for stage in stack], stack.preprocessing(pictures()), "scale")
    return stack


def network(activation="relu", **options):
    return assemble(small_stack(activation), CLASSES, seed=0, **options).eval()


def test_every_activation_of_the_settings_is_a_module():
    assert (*ACTIVATION_MODULES,) == ACTIVATIONS


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_saved_network_comes_back_as_it_was(tmp_path, activation):
    before = network(activation)
    before.save(tmp_path / "network.safetensors")
    after = ConvNet.load(tmp_path / "network.safetensors")
    assert torch.equal(after(pictures()), before(pictures()))
    assert (after.classes, after.image_shape, after.training) == (before.classes, before.image_shape, False)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 garbage"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "network.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"network\.safetensors"):
        ConvNet.load(tmp_path / "network.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"architecture": torch.zeros(3), "state": {}},
        {"architecture": {"layers": [], "image_shape": (), "classes": ["a"]}, "state": {}},
        {"architecture": {"layers": [5], "image_shape": (1, 4, 4), "classes": ["a"]}, "state": {}},
        {"architecture": {"layers": [], "image_shape": (1, 4, 4), "classes": ["a"]}, "state": {}},
        {"architecture": {"layers": [], "image_shape": (1, 4, 4), "classes": ["a"]}, "state": []},
        {
            "architecture": {"layers": [], "image_shape": (1, 4, 4), "classes": ["a"]},
            "state": {"other": torch.zeros(1)},
        },
    ],
    ids=[
        "dict",
        "tensor",
        "no shape",
        "no layer",
        "no weights",
        "list of weights",
        "other weights",
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    save_state(tmp_path / "network.safetensors", content)
    with pytest.raises(UserError, match=r"network\.safetensors does not hold a network"):
        ConvNet.load(tmp_path / "network.safetensors")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="it is missing"):
        ConvNet.load(tmp_path / "network.safetensors")


def test_pretrained_and_from_scratch_share_the_head_to_the_bit_and_differ_in_the_layers():
    pretrained, scratch = network(), network(pretrained=False, unlabelled=pictures())
    assert equal(pretrained.head.state_dict(), scratch.head.state_dict())
    assert equal(pretrained.preprocessing.state_dict(), scratch.preprocessing.state_dict())
    assert not torch.equal(pretrained.layers[0].conv.weight, scratch.layers[0].conv.weight)


def test_the_seed_names_the_initial_weights():
    draws = [assemble(small_stack(), CLASSES, seed=seed, pretrained=False) for seed in (1, 1, 2)]
    assert equal(draws[0].state_dict(), draws[1].state_dict())
    assert not torch.equal(draws[0].layers[0].conv.weight, draws[2].layers[0].conv.weight)
    assert not torch.equal(draws[0].head.fc.weight, draws[2].head.fc.weight)


@pytest.mark.parametrize("pretrained", [True, False])
def test_assembling_leaves_the_stack_as_it_is(pretrained):
    stack = small_stack()
    before = copied(stack)
    assembled = assemble(stack, CLASSES, seed=0, pretrained=pretrained, unlabelled=pictures())
    with torch.no_grad():
        for parameter in assembled.parameters():
            parameter.zero_()
    assert equal(before, stack.state_dict())


@pytest.mark.parametrize("activation", ["relu", "scaled_tanh", "sigmoid"])
def test_rescaling_gives_each_layers_output_unit_variance(activation):
    stack = small_stack(activation)
    x = stack.preprocessing(pictures())
    for stage in stack:
        x = stage.layer(x)
        torch.testing.assert_close(x.var(correction=0).item(), 1.0, rtol=1e-4, atol=0)


def test_layers_from_scratch_are_rescaled_as_the_stack_rescales_its_own():
    x = pictures()
    scratch = network(pretrained=False, unlabelled=x)
    for layer in (scratch.preprocessing, *scratch.layers):
        x = layer(x)
        torch.testing.assert_close(x.var().item(), 1.0, rtol=1e-2, atol=0)
    plain = assemble(small_stack(normalization="none"), CLASSES, seed=0, pretrained=False, unlabelled=pictures())
    assert equal(plain.state_dict(), network(pretrained=False).state_dict())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_folding_the_scale_leaves_the_function_unchanged(activation):
    layer = Layer(3, 4, activation=activation).double()
    layer.scale.fill_(2.7)
    assert folded(layer) == (activation in ("relu", "zero_bias_relu", "triangle"))


@pytest.mark.parametrize("power", [0.7, 1.0, 1.4])
def test_maps_that_compete_have_the_scale_folded_that_they_have_in_common(power):
    layer = Layer(3, 4, activation="triangle", power=power, pooling="average").double()
    layer.scale.fill_(2.7)
    assert folded(layer)
    layer.scale[1] = 3.0
    layer.shift.uniform_(generator=generator(0, "shift"))
    ratio = layer.scale / layer.scale[0]
    assert not folded(layer)
    torch.testing.assert_close(layer.scale / layer.scale[0], ratio)
    torch.testing.assert_close(layer.scale.log().mean().item(), 0.0)


@pytest.mark.parametrize("activation", ["relu", "zero_bias_relu"])
def test_each_rectified_map_has_its_own_scale_folded_and_keeps_its_shift(activation):
    layer = Layer(3, 4, activation=activation).double()
    layer.scale.uniform_(0.5, 2.0, generator=generator(0, "scale"))
    layer.shift.uniform_(generator=generator(0, "shift"))
    assert folded(layer)
    assert layer.shift.all()


def test_a_power_is_of_the_triangle_alone():
    with pytest.raises(UserError, match="power=2 needs activation=triangle"):
        Layer(3, 4, power=2)


def folded(layer):
    """Fold the scale, see that the function stays the same, and return whether the scale has become 1."""
    x = torch.randn(2, 3, 8, 8, generator=generator(0, "x"), dtype=torch.float64)
    before = layer(x)
    layer.fold_scale()
    torch.testing.assert_close(layer(x), before, rtol=1e-10, atol=1e-12)
    return bool((layer.scale == 1).all())


def test_average_pooling_is_torchs():
    layer = Layer(3, 4, pooling="average")
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(layer(x), F.avg_pool2d(layer.conv(x).relu(), 2))


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_overlapping_windows_reach_equally_far_on_each_side_and_end_at_the_border(pooling):
    layer = Layer(3, 4, pool_kernel_size=4, pool_stride=2, pooling=pooling)
    x = torch.rand(2, 3, 8, 8)
    hidden = layer.conv(x).relu()
    spans = [slice(max(0, start), start + 4) for start in range(-1, 7, 2)]
    pooled = {"max": torch.amax, "average": torch.mean}[pooling]
    expected = torch.stack([torch.stack([pooled(hidden[:, :, i, j], (2, 3)) for j in spans], 2) for i in spans], 2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pool_kernel_size": 3, "pool_stride": 2},
            "pool_kernel_size=3 with pool_stride=2: a window must be as wide as",
        ),
        ({"pool_kernel_size": 1, "pool_stride": 2}, "pool_kernel_size=1 with pool_stride=2"),
        (
            {"pool_kernel_size": 4, "pool_stride": 2, "pooling": "probabilistic", "activation": "sigmoid"},
            "do not overlap",
        ),
    ],
)
def test_windows_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Layer(3, 4, **options)


def test_a_dead_layer_is_refused():
    layer = Layer(3, 4)
    torch.nn.init.constant_(layer.conv.bias, -1e3)
    with pytest.raises(UserError, match="the same everywhere"):
        layer.normalize(torch.rand(2, 3, 8, 8), "scale")


def test_probabilities_are_the_softmax_of_the_logits_and_sum_to_one():
    probabilities = network().predict_proba(pictures())
    torch.testing.assert_close(probabilities, network()(pictures()).softmax(dim=1))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(12))


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_probabilities_do_not_depend_on_the_batch_size(batch_size):
    torch.testing.assert_close(network().predict_proba(pictures(), batch_size), network().predict_proba(pictures()))


def test_the_prediction_is_the_name_of_the_most_probable_class():
    expected = [CLASSES[row.index(max(row))] for row in network().predict_proba(pictures()).tolist()]
    assert network().predict(pictures()) == expected
    assert len(set(expected)) > 1


def test_dropout_is_off_in_prediction_and_the_mode_comes_back():
    training = network().train()
    assert not torch.equal(training(pictures()), training(pictures()))
    assert torch.equal(training.predict_proba(pictures()), network().predict_proba(pictures()))
    assert all(module.training for module in training.modules())


def test_freezing_and_unfreezing_reach_every_parameter():
    frozen = network()
    set_trainable(frozen, False)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    set_trainable(frozen, True)
    assert all(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_overcomplete_identity_stages_without_pooling_reconstruct_the_images(scale):
    stages = [ConvAutoencoder(Layer(*maps, kernel_size=1, pool_kernel_size=1)) for maps in ((3, 6), (6, 8))]
    for stage in stages:
        torch.nn.init.eye_(stage.layer.conv.weight.view(stage.out_channels, -1))
        stage.layer.scale.fill_(scale)
    stack = Stack(stages, pictures(), preprocessing="none")
    for upto in (0, 1, 2):
        assert torch.equal(stack.reconstruct(pictures(), upto), pictures() / 255)


def test_below_a_stage_stand_the_preprocessing_and_the_layers_under_it():
    stack = small_stack()
    torch.testing.assert_close(stack.below(0)(pictures()), stack.preprocessing(pictures()))
    lower, upper = (stage.layer for stage in stack)
    torch.testing.assert_close(stack.below(2)(pictures()), upper(lower(stack.preprocessing(pictures()))))


def test_a_stage_whose_channels_do_not_fit_those_below_is_refused():
    with pytest.raises(UserError, match="stage 2"):
        Stack([ConvAutoencoder(Layer(3, 4)), ConvAutoencoder(Layer(5, 4))], pictures())
