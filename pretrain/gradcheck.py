"""Check gradients numerically: ``python -m pretrain.gradcheck stack=cae``.

The work is done in `pretrain.evaluation.gradient_check`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pretrain.command_line.command import command
from pretrain.data.dataset_settings import DataSource
from pretrain.runs.setting_types import Count, FromZero, NonNegative
from pretrain.runs.typed_settings import Settings, problems_within
from pretrain.stages.stack_settings import StackSettings


@dataclass(frozen=True)
class GradcheckSettings(Settings):
    """Settings of the command.

    Attributes
    ----------
    data : DataSource
        Its images and classes are those of the network; no image of it is loaded.
    stack : StackSettings
        Whose stages are checked.
    seed : int
        Draws the images, the weights and the dimensions.
    dimensions : int
        Dimensions of each parameter, chosen at random.
    images : int
        Images in the batch.
    tolerance : float
        Greatest relative error that passes.
    """

    data: DataSource
    stack: StackSettings
    seed: FromZero = 0
    dimensions: Count = 5
    images: Count = 4
    tolerance: NonNegative = 1e-5

    def contradictions(self) -> Iterator[str]:
        """Yield the problem of a layer that does not fit the images."""
        yield from problems_within("stack", self.stack.layer_rows, self.data.shape, 2)


@command(GradcheckSettings)
def main(settings: GradcheckSettings) -> None:
    """Check the assembled network, and each stage of the stack on the output of those below."""
    import torch

    from pretrain.evaluation.gradient_check import check_network_and_stages, format_gradients, turned_off
    from pretrain.network.preprocessing import Standardize
    from pretrain.runs.seeding import generator
    from pretrain.stages.convnet_assembly import assemble
    from pretrain.training.stack_building import blank_images, build_stack

    shape, seed = settings.data.shape, settings.seed
    # A head can be checked without labels, whatever its classes.
    classes = settings.data.class_names() if settings.data.labelled else ["0", "1"]
    stack = build_stack(settings.stack, blank_images(shape), seed).stack
    # There are no images that a preprocessing could be fitted to.
    stack.preprocessing = Standardize.identity(shape[0])
    images = torch.rand(settings.images, *shape, generator=generator(seed, "images"), dtype=torch.float64)
    labels = torch.randint(len(classes), (settings.images,), generator=generator(seed, "classes"))
    network = assemble(stack, classes, seed=seed)
    print(f"off, since it would make the estimate meaningless: {', '.join(turned_off([network, *stack]))}")
    print(f"float64, central differences, {settings.dimensions} dimensions of each parameter\n")
    checks = check_network_and_stages(stack, network, images, labels, dimensions=settings.dimensions, seed=seed)
    for name, rows in checks.items():
        print(f"{name}\n{format_gradients(rows)}\n")
    errors = [row.relative_error for rows in checks.values() for row in rows]
    print(f"greatest relative error beyond rounding {max(errors):.1e}, tolerance {settings.tolerance:.1e}")
    # The comparison is so written that NaN fails.
    if not all(error <= settings.tolerance for error in errors):
        print("error: a gradient is wrong, or a kink of a rectifier or a pool lies within the step.", file=sys.stderr)
        sys.exit(1)
    print("passed")


if __name__ == "__main__":
    main()
