"""What the pictures of a stage show, against its own log and its own chains."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from pretrain import Contrastive, ConvAutoencoder, ConvRBM, Layer, Stack
from pretrain.evaluation.predictions import Evaluation
from pretrain.pictures.confusion_matrix import draw_confusion
from pretrain.pictures.drawing import legible, own_style, save_figure
from pretrain.pictures.filter_grids import project
from pretrain.pictures.health_panels import draw_health
from pretrain.pictures.samples import draw_samples
from pretrain.runs.seeding import generator, seeded

IMAGES = torch.randint(256, (6, 1, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
PROBABILISTIC = {"activation": "sigmoid", "pooling": "probabilistic"}


def rbms(*above):
    """Return a stack with an RBM at the bottom, and its parts."""
    with seeded(0, "stack"):
        lower = ConvRBM(Layer(1, 4, **PROBABILISTIC), visible="bernoulli")
        stack = Stack([lower, *above], IMAGES, normalization="standardize")
    for position, stage in enumerate(stack):
        inputs = stack.below(position)(IMAGES)
        below = stack.below(position)[-1]
        stage.prepare(inputs, below.bounds, generator(0))
        stage.layer.normalize(inputs, "standardize")
    return stack


def upper():
    with seeded(0, "upper"):
        return ConvRBM(Layer(4, 5, **PROBABILISTIC), visible="bernoulli")


def test_no_steps_of_a_chain_are_the_reconstruction_by_means_of_all_units():
    stack = rbms()
    x = stack.preprocessing(IMAGES)
    rbm = stack[0].rbm
    expected = stack.preprocessing.inverse(rbm.visible_mean(rbm.hidden_mean(rbm.hidden_input(x))))
    torch.testing.assert_close(stack.sample(IMAGES, 1, 0, generator(0)), expected)


def test_a_chain_of_the_upper_rbm_is_decoded_through_the_lower():
    stack = rbms(upper())
    draw = generator(0, "sample")
    low = stack[0].layer(stack.preprocessing(IMAGES))
    state = stack[1].rbm.gibbs_step(low, draw)
    h = stack[1].rbm.sample_hidden(stack[1].rbm.hidden_input(state), draw)
    expected = stack.preprocessing.inverse(stack[0].decode(stack[1].rbm.visible_mean(h), None))
    torch.testing.assert_close(stack.sample(IMAGES, 2, 2, generator(0, "sample")), expected)


def test_chains_of_an_rbm_without_weights_draw_its_visible_biases():
    stack = rbms()
    with torch.no_grad():
        stack[0].layer.conv.weight.zero_()
        stack[0].visible_bias.fill_(0.4)
    torch.testing.assert_close(
        stack.sample(IMAGES, 1, 3, generator(0)), torch.full((6, 1, 8, 8), 0.4).sigmoid(), atol=1e-6, rtol=0
    )


def test_an_autoencoder_on_top_draws_no_samples():
    stack = rbms(ConvAutoencoder(Layer(4, 5)))
    with pytest.raises(NotImplementedError):
        draw_samples(stack, IMAGES, 2, generator(0))


def test_nothing_is_drawn_through_the_switches_of_an_autoencoder():
    with seeded(0, "stack"):
        stack = Stack([ConvAutoencoder(Layer(1, 4)), ConvRBM(Layer(4, 5, **PROBABILISTIC))], IMAGES)
    with pytest.raises(NotImplementedError):
        stack.sample(IMAGES, 2, 1, generator(0))


def test_a_picture_of_health_has_a_panel_for_each_kind_of_figure_and_a_line_for_each_that_is_there():
    rows = [
        {"step": 20, "reconstruction": 0.9, "update_ratio": 0.1},
        {"step": 20, "reconstruction": 0.8, "held_out_reconstruction": 0.85, "weight_norm": 1.0},
        {"step": 40, "reconstruction": 0.7, "held_out_reconstruction": 0.75, "weight_norm": 2.0},
    ]
    figure = draw_health(rows, "Stage 1", ConvAutoencoder.metrics)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["reconstruction error", "norm of the weights", "update size, relative to the weights"]
    lines = {line.get_label(): line.get_ydata().tolist() for line in panels["reconstruction error"].lines}
    assert lines == {"training": [0.8, 0.7], "held out": [0.85, 0.75]}  # those of the same images, not of batches
    assert panels["norm of the weights"].lines[0].get_ydata().tolist() == [1.0, 2.0]


def test_the_loss_of_a_contrastive_stage_is_drawn_batch_by_batch():
    rows = [
        {"step": 20, "loss": 3.0, "similarity": 0.2, "update_ratio": 0.1},
        {"step": 40, "loss": 2.0, "similarity": 0.6, "update_ratio": 0.2},
    ]
    panels = {
        axes.get_title(): axes
        for axes in draw_health(rows, "Stage 2", Contrastive.metrics).figure.axes
        if axes.get_visible()
    }
    drawn = {title: axes.lines[0].get_ydata().tolist() for title, axes in panels.items()}
    assert drawn == {
        "loss": [3.0, 2.0],
        "similarity of two views": [0.2, 0.6],
        "update size, relative to the weights": [0.1, 0.2],
    }


@pytest.mark.parametrize("side", [1, 3])
def test_a_filter_is_drawn_through_the_pooling_below_whatever_its_size(side):
    with seeded(0, "stack"):
        first, second = ConvAutoencoder(Layer(1, 3)), ConvAutoencoder(Layer(3, 2, kernel_size=side))
        drawn = project(Stack([first, second], IMAGES), 2)
    assert drawn.shape == (2, 1, 2 * side + 2, 2 * side + 2)
    below = torch.zeros(1, 3, 2 * side, 2 * side)  # what the first of its filters asks of the maps below, spread
    below[0] = second.layer.conv.weight[0].repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    expected = torch.nn.functional.conv_transpose2d(below, first.layer.conv.weight)
    torch.testing.assert_close(drawn[:1], expected)


ODD_NAMES = ["$", "$$", "$x_1$", r"\frac", "caf\udce9", "猫", "a\nb", "<b>", "file", "class", "100%", "{}", "\x1b[31m"]


def confusion(names):
    counts = np.eye(len(names), dtype=int)
    return Evaluation(1.0, dict.fromkeys(names, 1.0), counts, torch.arange(len(names)), torch.eye(len(names)))


def test_names_of_classes_are_drawn_as_they_are_written(tmp_path, recwarn):
    save_figure(lambda: draw_confusion(confusion(ODD_NAMES), ODD_NAMES), tmp_path / "odd.png")
    assert not recwarn.list
    with own_style():
        axes = draw_confusion(confusion(ODD_NAMES), ODD_NAMES).axes[0]
    drawn = [label.get_text() for label in axes.get_xticklabels()]
    assert drawn == [name.replace("\udce9", "\ufffd") for name in ODD_NAMES]
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())
    assert np.asarray(Image.open(tmp_path / "odd.png")).std() > 0


@pytest.mark.parametrize(
    ("name", "shown"), [("caf\udce9", "caf\ufffd"), ("猫", "猫"), ("", ""), ("\udce7\udc8c\udcab", "猫")]
)
def test_a_name_in_an_old_encoding_becomes_legible(name, shown):
    assert legible(name) == shown


def test_the_settings_of_the_user_change_no_picture_and_are_left_as_they_are(tmp_path):
    names = ["cat", "dog"]
    save_figure(lambda: draw_confusion(confusion(names), names), tmp_path / "plain.png")
    theirs = {"text.usetex": True, "figure.facecolor": "red", "font.size": 30.0, "lines.linewidth": 9.0}
    with matplotlib.rc_context(theirs):
        before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
        save_figure(lambda: draw_confusion(confusion(names), names), tmp_path / "theirs.png")
        assert dict(matplotlib.rcParams) == before
        assert matplotlib.get_backend() == backend
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()
