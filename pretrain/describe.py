"""Print the layer table of a network: ``python -m pretrain.describe data=cifar10 stack=cae``."""

from dataclasses import dataclass

from pretrain.command_line.command import command
from pretrain.data.sources import DataSource
from pretrain.stages.stack_settings import StackSettings


@dataclass(frozen=True)
class DescribeSettings:
    """Settings of the command: the images and the stack of a network."""

    data: DataSource
    stack: StackSettings


@command(DescribeSettings)
def main(settings: DescribeSettings) -> None:
    """Show each layer's output volume, parameters and multiply-adds."""
    from pretrain.network.shapes import format_rows, layer_rows
    from pretrain.stages.assembly import assemble
    from pretrain.training.stack_settings import blank_images, build_stack

    shape, classes = settings.data.shape, settings.data.class_names()
    network = assemble(build_stack(settings.stack, blank_images(shape), seed=0).stack, classes, seed=0)
    print(format_rows(layer_rows(network, shape), shape))


if __name__ == "__main__":
    main()
