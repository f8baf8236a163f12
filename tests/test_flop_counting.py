import pytest
import torch

import pretrain
from pretrain import Views, layer_rows
from pretrain.training.flop_counting import finetuning_flops, stage_flops


def images(channels=2, count=8):
    return torch.randint(256, (count, channels, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


def network():
    stages = [pretrain.ConvAutoencoder(pretrain.Layer(2, 4)), pretrain.ConvAutoencoder(pretrain.Layer(4, 6))]
    return pretrain.assemble(pretrain.Stack(stages, images()), ["a", "b", "c"], seed=0)


def forward(part):
    """Two operations for each multiply-add of the layer table."""
    return 2 * part.multiply_adds


def test_an_update_costs_three_times_the_forward_pass_less_the_gradient_of_the_images():
    net = network()
    first, second, head = (forward(row) for row in net.rows if row.multiply_adds)
    assert finetuning_flops(net, pretrain.Recipe(batch_size=5), 100, 7) == 7 * 5 * (2 * first + 3 * second + 3 * head)


def test_what_is_frozen_costs_its_forward_pass_alone():
    net = network()
    first, second, head = (forward(row) for row in net.rows if row.multiply_adds)
    frozen, whole = first + second + 2 * head, 2 * first + 3 * second + 3 * head
    assert finetuning_flops(net, pretrain.Recipe(freeze=True, batch_size=4), 100, 10) == 10 * 4 * frozen
    mixed = finetuning_flops(net, pretrain.Recipe(head_steps=6, batch_size=4), 100, 10)
    assert mixed == 6 * 4 * frozen + 4 * 4 * whole


def test_a_fitted_head_costs_the_pass_of_the_labelled_images_and_their_mirror_images():
    net = network()
    first, second, _ = (forward(row) for row in net.rows if row.multiply_adds)
    for flip in (False, True):
        recipe = pretrain.Recipe(steps=0, freeze=True, head="ridge", flip=flip)
        assert finetuning_flops(net, recipe, 100, 0) == 100 * (1 + flip) * (first + second)


def test_a_batch_has_no_more_images_than_there_are_labels():
    net = network()
    assert finetuning_flops(net, pretrain.Recipe(batch_size=64), 10, 1) == finetuning_flops(
        net, pretrain.Recipe(batch_size=10), 1000, 1
    )


def test_contrastive_divergence_costs_four_convolutions_and_the_gradient_of_two_batches():
    layer = pretrain.Layer(2, 8, padding=0, activation="sigmoid")
    stack = pretrain.Stack([pretrain.ConvRBM(layer, visible="gaussian")], images())
    (row,) = [row for row in layer_rows({"layer": stack[0].layer.settings}, (2, 8, 8)) if row.multiply_adds]
    training = pretrain.Training(steps=3, batch_size=4)
    # Up, down (2 x 2 pixels at once by a filter of 4 x 4 where one of 3 x 3 would do: 64 / 36 as much), up, gradient.
    down = 2 * 8 * 4 * 4 * 4 * 2 * 4 * 4
    prepare = 50 * forward(row)  # the hidden units of as many images, where their running mean starts
    assert stage_flops(stack, 0, training, 1000) == prepare + 3 * 4 * (2 * forward(row) + down + 2 * forward(row))


@pytest.mark.parametrize(("steps", "passes"), [(1, 8), (100, 20)])
def test_the_layers_below_compute_each_image_once_at_most(steps, passes):
    stages = [pretrain.ConvAutoencoder(pretrain.Layer(2, 4)), pretrain.ConvAutoencoder(pretrain.Layer(4, 6))]
    stack = pretrain.Stack(stages, images())
    training = pretrain.Training(steps=steps, batch_size=8)
    alone = stage_flops(stack, 1, pretrain.Training(steps=1, batch_size=8), 10**9)
    (row,) = [row for row in layer_rows({"layer": stack[0].layer.settings}, (2, 8, 8)) if row.multiply_adds]
    update = alone - 8 * forward(row)
    assert stage_flops(stack, 1, training, 20) == steps * update + passes * forward(row)


def test_two_views_cost_twice_as_much_and_the_layers_below_compute_each():
    sizes = {"projection_hidden": 5, "projection_size": 3, "grid_size": 2}
    lower, upper = pretrain.Layer(2, 4), pretrain.Layer(4, 6)
    stages = [pretrain.ConvAutoencoder(lower), pretrain.Contrastive(upper, **sizes)]
    stack = pretrain.Stack(stages, images())
    (below,) = [forward(row) for row in layer_rows({"layer": stack[0].layer.settings}, (2, 8, 8)) if row.multiply_adds]
    layer = 2 * 6 * 4 * 9 * 4 * 4  # on 4 x 4 positions, which are pooled to 2 x 2
    head = 2 * (6 * 5 + 5 * 3) * 2 * 2
    similarity = 3 * 2 * 16 * 16 * 3  # of 16 views, 3 numbers each: forward, and the gradient of both factors
    update = 16 * (2 * layer + 3 * head) + similarity
    cost = stage_flops(stack, 1, pretrain.Training(steps=10, batch_size=8), 20)
    assert cost == 10 * (update + 16 * below)


def test_smaller_views_cost_less_in_the_layers_below_and_in_the_update():
    def cost(size, side):
        upper = pretrain.Contrastive(pretrain.Layer(4, 6), views=Views(size=size))
        stack = pretrain.Stack([pretrain.ConvAutoencoder(pretrain.Layer(2, 4)), upper], images()[:, :, :side, :side])
        return stage_flops(stack, 1, pretrain.Training(steps=10, batch_size=8), 20)

    assert cost(size=0.5, side=8) == cost(size=1, side=4) < cost(size=1, side=8)


def test_the_search_for_centroids_before_training_is_counted():
    def cost(filter_init):
        stage = pretrain.ConvAutoencoder(pretrain.Layer(2, 4), filter_init=filter_init)
        stack = pretrain.Stack([stage], images())
        return stage_flops(stack, 0, pretrain.Training(steps=1, batch_size=4), 8)

    size, patches = 2 * 9, 10 * 8  # ten patches of each of eight images, in each of twenty passes
    passes = 20 * 2 * patches * (size * size + 2 * 4 * size)  # whitened, compared with centroids, added up
    centroids = 20 * 2 * 4 * size * size * 3  # of filters, twice, and back
    assert cost("kmeans") - cost("patches") == passes + centroids


def test_counting_changes_nothing():
    layer = pretrain.Layer(2, 4, padding=0, activation="sigmoid", pooling="probabilistic")
    stack = pretrain.Stack([pretrain.ConvRBM(layer, sampler="pcd", chains=4)], images())
    stack[0].prepare(stack.preprocessing(images()), stack.preprocessing.bounds, torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    stage_flops(stack, 0, pretrain.Training(steps=1), 8)
    after = stack.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in stack.parameters())
