"""Check gradients numerically: ``python -m pretrain.gradcheck stack=cae``."""

import sys

import torch

from pretrain.command_line.command import command
from pretrain.data.sources import data_shape
from pretrain.errors import require_between
from pretrain.evaluation.gradient_check import check_network, check_stage, format_gradients, turned_off
from pretrain.network.preprocessing import Standardize
from pretrain.runs.seeding import generator
from pretrain.runs.settings import Config
from pretrain.stages.assembly import assemble
from pretrain.training.stack_settings import blank_images, build_stack


@command("gradcheck")
def main(config: Config) -> None:
    """Check the assembled network, and each stage of the stack on the output of those below."""
    shape, classes = data_shape(config["data"])
    seed, count = config["seed"], config["images"]
    require_between("images", count, 1)
    require_between("dimensions", config["dimensions"], 1)
    stack = build_stack(config["stack"], blank_images(shape), seed).stack
    # There are no images that a preprocessing could be fitted to.
    stack.preprocessing = Standardize.identity(shape[0])
    images = torch.rand(count, *shape, generator=generator(seed, "images"), dtype=torch.float64)
    labels = torch.randint(len(classes), (count,), generator=generator(seed, "classes"))
    network = assemble(stack, classes, seed=seed)
    print(f"off, since it would make the estimate meaningless: {', '.join(turned_off([network, *stack]))}")
    print(f"float64, central differences, {config['dimensions']} dimensions of each parameter\n")
    options = {"dimensions": config["dimensions"], "seed": seed}
    checks = {"network": check_network(network, images, labels, **options)}
    x = images
    for position, stage in enumerate(stack, 1):
        checks |= {f"stage {position}, {name}": rows for name, rows in check_stage(stage, x, **options).items()}
        with torch.no_grad():
            x = stage.layer(x)
    for name, rows in checks.items():
        print(f"{name}\n{format_gradients(rows)}\n")
    errors = [row.relative_error for rows in checks.values() for row in rows]
    print(f"greatest relative error beyond rounding {max(errors):.1e}, tolerance {config['tolerance']:.1e}")
    # The comparison is so written that NaN fails.
    if not all(error <= config["tolerance"] for error in errors):
        print(
            "error: a gradient is wrong, or a kink of a rectifier or a pool lies within the step.",
            file=sys.stderr,
        )
        sys.exit(1)
    print("passed")


if __name__ == "__main__":
    main()
