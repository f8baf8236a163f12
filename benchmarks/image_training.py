"""Training loops over a folder of images: the toolkit's, the loop that people write, and Lightning's Trainer.

All train the same network, 64-128-256 filters, by the same optimizer, from the same folder. A plain loop takes float32,
as torch does unless told otherwise, or bfloat16 and channels last, as the toolkit does.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import pretrain
from pretrain import fit_stage
from pretrain.data.augmentation import random_crop, random_flip
from pretrain.runs.seeding import generator
from pretrain.training.minibatches import BatchOrder
from pretrain.training.stage_inputs import Inputs

LAYER_SIZES = ((64, 5), (128, 3), (256, 3))  # number of filters and their side in pixels
IMAGE_SIDE = 32
CLASSES = 10
FINETUNING_BATCH, STAGE_BATCH = 64, 128
PASSES = 5  # over the images, in a whole training of a stage: by these it decides whether to keep its inputs

Run = Callable[[int], object]  # trains for so many steps


def our_finetuning(root: Path) -> Run:
    """Return the toolkit's fine-tuning."""
    data, fabric = _ours(root)
    stack = _stack(data)

    def run(steps: int) -> None:
        network = pretrain.assemble(stack, data.classes, seed=0, pretrained=False)
        recipe = pretrain.Recipe(steps=steps, batch_size=FINETUNING_BATCH, evaluate_every=10**9)
        pretrain.finetune_network(network, data, recipe=recipe, fabric=fabric, test=False)

    return run


def our_stage(root: Path, position: int) -> Run:
    """Return the toolkit's training of an autoencoder; what lies below it is computed before."""
    data, fabric = _ours(root)
    stack = _stack(data)
    draws = PASSES * len(data.unlabelled) if position else 0
    inputs = Inputs(data.unlabelled, stack.below(position), fabric, draws)

    def run(steps: int) -> None:
        settings = pretrain.Training(steps=steps, batch_size=STAGE_BATCH)
        fit_stage(stack[position], inputs, settings, seed=0, name="benchmark", fabric=fabric)

    return run


def our_batches(root: Path) -> Run:
    """Return the toolkit's way from images in memory to batches for the first layer."""
    data, _ = _ours(root)
    order, to_first_layer = BatchOrder(len(data.train), FINETUNING_BATCH, 0, "benchmark"), _stack(data).preprocessing

    def run(steps: int) -> None:
        for step in range(steps):
            draw = generator(0, "benchmark", step)
            to_first_layer(random_flip(random_crop(data.train.images[order(step)], 4, draw), draw))

    return run


def plain_finetuning(root: Path, workers: int, *, tuned: bool = False, lightning: bool = False) -> Run:
    """Return the fine-tuning that people write."""
    network = _plain_network(CLASSES)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(images), labels)

    return _plain_run(_loader(root, FINETUNING_BATCH, workers), network, loss, optimizer, tuned, lightning)


def plain_stage(root: Path, position: int, workers: int, *, lightning: bool = False) -> Run:
    """Return the training of an autoencoder with tied filters and switches on the output of the layers below."""
    below = _plain_network(CLASSES)[: 3 * position]
    filters, side = LAYER_SIZES[position]
    channels = LAYER_SIZES[position - 1][0] if position else 3
    conv = nn.Conv2d(channels, filters, side, padding=side // 2, bias=False)
    optimizer = torch.optim.AdamW(conv.parameters(), 1e-3, weight_decay=0.0)

    def loss(images: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            x = below(images)
        pooled, switches = F.max_pool2d(F.relu(conv(x)), 2, return_indices=True)
        code = F.max_unpool2d(pooled, switches, [2, 2])
        return F.mse_loss(F.conv_transpose2d(code, conv.weight, padding=side // 2), x)

    return _plain_run(_loader(root, STAGE_BATCH, workers), conv, loss, optimizer, False, lightning)


def plain_batches(root: Path, workers: int) -> Run:
    """Return the reading of batches by ImageFolder and a DataLoader."""
    batches = _without_end(_loader(root, FINETUNING_BATCH, workers))

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return run


def _ours(root: Path) -> tuple[pretrain.Dataset, Any]:
    # The commands do so, too.
    pretrain.keep_freed_memory()
    return pretrain.load_folder(root, validation=0), pretrain.Device(accelerator="cpu").launch()


def _stack(data: pretrain.Dataset) -> pretrain.Stack:
    stages, channels = [], 3
    for filters, side in LAYER_SIZES:
        stages.append(pretrain.ConvAutoencoder(pretrain.Layer(channels, filters, kernel_size=side)))
        channels = filters
    return pretrain.Stack(stages, data.unlabelled)


def _plain_network(classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for filters, side in LAYER_SIZES:
        layers += [nn.Conv2d(channels, filters, side, padding=side // 2, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
        channels = filters
    features = channels * (IMAGE_SIDE // 2 ** len(LAYER_SIZES)) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(features, classes))


def _loader(root: Path, batch_size: int, workers: int) -> "DataLoader[Any]":
    transform = transforms.Compose(
        [
            transforms.Resize(IMAGE_SIDE),
            transforms.CenterCrop(IMAGE_SIDE),
            transforms.RandomCrop(IMAGE_SIDE, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ]
    )
    source = datasets.ImageFolder(str(root / "train"), transform)
    return DataLoader(
        source, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )


def _without_end(loader: "DataLoader[Any]") -> Iterator[Any]:
    while True:
        yield from loader


def _plain_run(
    loader: "DataLoader[Any]",
    module: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    tuned: bool,
    lightning: bool,
) -> Run:
    if lightning:
        return _lightning_run(loader, module, loss, optimizer)
    if tuned:
        module.to(memory_format=torch.channels_last)
    batches = _without_end(loader)

    def run(steps: int) -> None:
        for _ in range(steps):
            images, labels = next(batches)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
                value = loss(images.to(memory_format=torch.channels_last) if tuned else images, labels)
            value.backward()
            optimizer.step()

    return run


def _lightning_run(
    loader: "DataLoader[Any]",
    module: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
) -> Run:
    import pytorch_lightning

    class Training(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return loss(*batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    # Advice and announcements at each start.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    training = Training()

    def run(steps: int) -> None:
        trainer = pytorch_lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(training, loader)

    return run
