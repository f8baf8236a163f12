"""Print the layer table of a network: ``python -m pretrain.describe data=cifar10 stack=cae``."""

from collections.abc import Iterator
from dataclasses import dataclass

from pretrain.command_line.command import command
from pretrain.data.dataset_settings import DataSource
from pretrain.network.shapes import format_rows
from pretrain.runs.typed_settings import Settings, problems_within
from pretrain.stages.stack_settings import StackSettings


@dataclass(frozen=True)
class DescribeSettings(Settings):
    """Settings of the command: the images and the stack of a network."""

    data: DataSource
    stack: StackSettings

    def contradictions(self) -> Iterator[str]:
        """Yield the problem of a layer that does not fit the images."""
        yield from problems_within("stack", self.stack.layer_rows, self.data.shape, 2)


@command(DescribeSettings)
def main(settings: DescribeSettings) -> None:
    """Show each layer's output volume, parameters and multiply-adds."""
    # Without labels there is no head.
    classes = len(settings.data.class_names()) if settings.data.labelled else None
    shape = settings.data.shape
    print(format_rows(settings.stack.layer_rows(shape, classes), shape))


if __name__ == "__main__":
    main()
