"""Print the layer table of a network: ``python -m pretrain.describe data=cifar10 stack=cae``."""

from pretrain.command_line.command import command
from pretrain.data.sources import data_shape
from pretrain.network.shapes import format_rows, layer_rows
from pretrain.runs.settings import Config
from pretrain.stages.assembly import assemble
from pretrain.training.stack_settings import blank_images, build_stack


@command("describe")
def main(config: Config) -> None:
    """Show each layer's output volume, parameters and multiply-adds."""
    shape, classes = data_shape(config["data"])
    stack = build_stack(config["stack"], blank_images(shape), config["seed"]).stack
    network = assemble(stack, classes, seed=config["seed"])
    print(format_rows(layer_rows(network, shape), shape))


if __name__ == "__main__":
    main()
