"""Print the layer table of a network: ``python -m pretrain.describe data=cifar10 stack=cae``."""

from pretrain.command_line.command import command
from pretrain.data.sources import data_shape
from pretrain.network.configured_layers import describe_network
from pretrain.network.shapes import format_rows
from pretrain.runs.settings import Config


@command("describe")
def main(config: Config) -> None:
    """Show each layer's output volume, parameters and multiply-adds."""
    shape, classes = data_shape(config["data"])
    print(format_rows(describe_network(config["stack"], shape, len(classes)), shape))


if __name__ == "__main__":
    main()
