"""Measure the speed of stage training and of fine-tuning, beside a plain PyTorch loop.

The plain loop uses torchvision's ImageFolder and transforms, a DataLoader, float32, and the same network and optimizer.
Both have the same folder, batch size and number of steps. They take turns, and the ratios are those of the medians.

    python benchmarks/throughput.py --root DIR            # DIR/train/<class>/*, DIR/test/<class>/*
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import pretrain
from pretrain import fit_stage
from pretrain.training.stage_inputs import Inputs

LAYER_SIZES = ((64, 5), (128, 3), (256, 3))  # number of filters and their side in pixels


def plain_batches(root: Path, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches of the plain loop without end."""
    transform = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(32),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ]
    )
    source = datasets.ImageFolder(str(root / "train"), transform)
    loader = DataLoader(
        source, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield from loader


def plain_network(classes: int) -> nn.Sequential:
    """Return the network of the plain loop."""
    layers: list[nn.Module] = []
    channels = 3
    for filters, side in LAYER_SIZES:
        layers += [nn.Conv2d(channels, filters, side, padding=side // 2, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
        channels = filters
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * 16, classes))


def plain_finetune(batches: Iterator[tuple[Tensor, Tensor]], classes: int, steps: int) -> None:
    """Train the plain network."""
    network = plain_network(classes)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for _ in range(steps):
        images, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()


def plain_stage(batches: Iterator[tuple[Tensor, Tensor]], position: int, steps: int) -> None:
    """Train an autoencoder with tied filters and switches on the output of the untrained layers below."""
    layers = plain_network(10)[: 3 * position]
    filters, side = LAYER_SIZES[position]
    conv = nn.Conv2d(LAYER_SIZES[position - 1][0] if position else 3, filters, side, padding=side // 2, bias=False)
    optimizer = torch.optim.AdamW(conv.parameters(), 1e-3, weight_decay=0.0)
    for _ in range(steps):
        images, _ = next(batches)
        with torch.no_grad():
            x = layers(images)
        optimizer.zero_grad()
        pooled, switches = F.max_pool2d(F.relu(conv(x)), 2, return_indices=True)
        code = F.max_unpool2d(pooled, switches, [2, 2])
        F.mse_loss(F.conv_transpose2d(code, conv.weight, padding=side // 2), x).backward()
        optimizer.step()


def ours(data: pretrain.Dataset, fabric: pretrain.Device) -> dict[str, Callable[[int], None]]:
    """Return the toolkit's training loops by name, each a function of the number of steps."""
    launched = fabric.launch()
    stages = []
    channels = 3
    for filters, side in LAYER_SIZES:
        stages.append(pretrain.ConvAutoencoder(pretrain.Layer(channels, filters, kernel_size=side)))
        channels = filters
    stack = pretrain.Stack(stages, data.unlabelled)

    def finetune(steps: int) -> None:
        network = pretrain.assemble(stack, data.classes, seed=0, pretrained=False)
        recipe = pretrain.Recipe(steps=steps, batch_size=64, evaluate_every=10**9)
        pretrain.finetune_network(network, data, recipe=recipe, fabric=launched)

    def stage(position: int) -> Callable[[int], None]:
        # The warm-up computes the inputs, as a stage does once for all its steps.
        inputs: list[Inputs] = []

        def fit(steps: int) -> None:
            if not inputs:
                draws = len(data.unlabelled) if position else 0
                inputs.append(Inputs(data.unlabelled, stack.below(position), launched, draws))
            settings = pretrain.Training(steps=steps, batch_size=128)
            fit_stage(stack[position], inputs[0], settings, seed=0, name="benchmark", fabric=launched)

        return fit

    return {"fine-tuning": finetune, **{f"stage {k + 1}": stage(k) for k in range(len(LAYER_SIZES))}}


def timed(function: Callable[[int], None], steps: int, batch_size: int) -> float:
    """Return the images per second of a function."""
    started = time.perf_counter()
    function(steps)
    return steps * batch_size / (time.perf_counter() - started)


def main() -> None:
    """Print a table of medians, ranges and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with train/<class>/* and test/<class>/*")
    parser.add_argument("--steps", type=int, default=40, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, after a warm-up")
    options = parser.parse_args()

    # Only training is timed: nothing is validated, and a few training images stand in for the test split.
    loaded = pretrain.load_folder(options.root, validation=0)
    test = loaded.train.subset(torch.arange(0, len(loaded.train), max(1, len(loaded.train) // 10)))
    data = pretrain.Dataset(loaded.classes, loaded.train, loaded.validation, loaded.unlabelled, lambda: test)
    measured = ours(data, pretrain.Device())
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{options.rounds} rounds of {options.steps} steps"
    )
    print(f"{'':14}{'ours':>10}{'(range)':>16}{'plain':>10}{'(range)':>16}{'ratio':>8}   plain loader")
    for name, function in measured.items():
        size = 64 if name == "fine-tuning" else 128
        for workers in (0, 2):
            batches = plain_batches(options.root, size, workers)

            def plain(steps: int, name: str = name, batches: Iterator[tuple[Tensor, Tensor]] = batches) -> None:
                if name == "fine-tuning":
                    plain_finetune(batches, len(data.classes), steps)
                else:
                    plain_stage(batches, int(name[-1]) - 1, steps)

            rounds = [
                (timed(function, options.steps, size), timed(plain, options.steps, size))
                for _ in range(options.rounds + 1)
            ][1:]
            mine, theirs = ([pair[k] for pair in rounds] for k in (0, 1))
            ratio = statistics.median(mine) / statistics.median(theirs)
            print(
                f"{name:14}{statistics.median(mine):10.0f}{f'{min(mine):.0f}-{max(mine):.0f}':>16}"
                f"{statistics.median(theirs):10.0f}{f'{min(theirs):.0f}-{max(theirs):.0f}':>16}{ratio:8.2f}"
                f"   {workers} workers",
                flush=True,
            )


if __name__ == "__main__":
    main()
