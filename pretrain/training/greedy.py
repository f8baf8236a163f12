"""Greedy layer-wise training: each stage learns from what the trained layers below it make of the images."""

import time
from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pretrain.errors import UserError
from pretrain.runs.device import Device
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.seeding import generator
from pretrain.stages.base import Metrics, Stage
from pretrain.stages.stack import SAMPLE, Stack
from pretrain.training.minibatches import BatchOrder, share_out
from pretrain.training.optimizers import build_optimizer
from pretrain.training.recipes import Training
from pretrain.training.schedules import Schedule
from pretrain.training.stage_inputs import Inputs
from pretrain.training.trainer import Trainer

HEALTH_CHECKS = 20  # of a stage in training
HEALTH_SAMPLE = 200  # images of each


def fit_stage(
    stage: Stage,
    inputs: Inputs,
    settings: Training,
    *,
    seed: int,
    name: str,
    fabric: Fabric,
    folder: RunFolder | None = None,
    held_out: Inputs | None = None,
) -> Trainer:
    """Train one stage on its inputs, whatever kind it is.

    Parameters
    ----------
    stage : Stage
        Changed in place.
    inputs : Inputs
        What it learns from.
    settings : Training
        How long and how fast.
    seed : int
        Names every random draw, with `name`.
    name : str
        Phase of the run, in its log.
    fabric : Fabric
        Device and precision.
    folder : RunFolder, optional
        Where to log and keep checkpoints; a run that is there goes on.
    held_out : Inputs, optional
        Others, which it does not learn from, to tell learning from memorizing in the log.

    Returns
    -------
    Trainer
        With its seconds, those of keeping the inputs and of preparing the stage among them.

    Raises
    ------
    UserError
        When the stage cannot learn in this way, or diverges.
    """
    _check(stage, settings, name, fabric)
    stage.to(fabric.device).to(memory_format=torch.channels_last)
    seen = _sample(inputs, seed)
    started = time.monotonic()
    stage.prepare(seen, inputs.bounds, generator(seed, name, "prepare"))
    prepared = time.monotonic() - started
    order = BatchOrder(len(inputs), settings.batch_size, seed, name)

    def compute_gradients(step: int) -> Metrics:
        positions = share_out(order(step), fabric)
        draw = generator(seed, name, "noise", step, fabric.global_rank, device=fabric.device)
        if stage.views is None:
            return stage.accumulate_grad(inputs[positions], draw)
        both = inputs.views(positions, stage.views, generator(seed, name, "views", step, fabric.global_rank))
        return stage.accumulate_grad(both, draw)

    unseen = _sample(held_out, seed)[:HEALTH_SAMPLE] if held_out else None

    def health() -> Metrics:
        draw = generator(seed, name, "health", device=fabric.device)
        figures = dict(stage.health(seen[:HEALTH_SAMPLE], draw))
        if unseen is not None:
            figures |= stage.held_out_health(figures, stage.health(unseen, draw))
        return figures

    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    loop = Trainer(
        name,
        stage,
        build_optimizer([{"params": parameters, "schedule": Schedule(settings)}], settings),
        settings,
        compute_gradients,
        seed,
        fabric,
        folder,
        constrain=stage.constrain,
        diagnose=stage.diagnose,
        evaluate=health if folder else None,  # nobody else would read it
        evaluate_every=max(1, settings.steps // HEALTH_CHECKS),
        seconds=inputs.seconds + prepared,
    )
    loop.run()
    stage.eval()
    stage.finish(seen)
    return loop


def _check(stage: Stage, settings: Training, name: str, fabric: Fabric) -> None:
    """Refuse what a kind of stage cannot do."""
    kind = type(stage).__name__
    if fabric.world_size > 1 and not stage.data_parallel:
        raise UserError(f"{name}, {kind}: processes cannot share its batches: give device.devices=1.")
    if stage.objective is None and settings.optimizer != "sgd":
        raise UserError(f"{name}, {kind}: it learns by a rule, not a gradient: give training.optimizer=sgd.")


def fit_stages(
    stack: Stack,
    images: Tensor,
    settings: Training | Sequence[Training] | None = None,
    *,
    seed: int = 0,
    upto: int | None = None,
    fabric: Fabric | None = None,
    folder: RunFolder | None = None,
    held_out: Tensor | None = None,
) -> list[Trainer]:
    """Train the stages of a stack greedily, from the input upwards.

    Parameters
    ----------
    stack : Stack
        Changed in place.
    images : Tensor, (N, C, H, W), uint8 or in [0, 1]
        Unlabelled images.
    settings : Training or sequence of Training, optional
        For all stages, or one for each.
    seed : int
        Names every random draw.
    upto : int, optional
        Train the first so many stages only.
    fabric : Fabric, optional
        Device and precision; by default the best that there is.
    folder : RunFolder, optional
        Where to log, and keep stack.pt after each stage; a run that is there goes on.
    held_out : Tensor, optional
        Images that nothing learns from, to tell learning from memorizing in the log.

    Returns
    -------
    list of Trainer
        One for each stage trained by this call.

    Raises
    ------
    UserError
        When the stack has fewer stages than `upto`, or not as many as there are settings; or when one diverges.
    """
    fabric = fabric or Device().launch()
    upto = len(stack) if upto is None else upto
    each = list(settings) if isinstance(settings, Sequence) else [settings or Training()] * len(stack)
    if not (1 <= upto <= len(stack) == len(each)):
        raise UserError(f"upto={upto}, {len(each)} settings: the stack has {len(stack)} stages.")
    for position in range(upto):  # all of them before the first is trained
        _check(stack[position], each[position], f"stage {position + 1}", fabric)
    stack.to(fabric.device).to(memory_format=torch.channels_last)
    finished = load_stack(stack, folder) if folder else 0
    loops = []
    for position in range(finished, upto):
        stage, wanted = stack[position], each[position]
        draws = 0 if stage.views else wanted.steps * wanted.batch_size  # no view is seen twice
        inputs = Inputs(images, stack.below(position), fabric, draws)
        name = f"stage {position + 1}"
        unseen = None if held_out is None else Inputs(held_out, stack.below(position), fabric, draws=0)
        loops.append(
            fit_stage(stage, inputs, wanted, seed=seed, name=name, fabric=fabric, folder=folder, held_out=unseen)
        )
        stage.layer.normalize(_sample(inputs, seed), stack.normalization)
        if folder:
            folder.save("stack.pt", {"finished": position + 1, "stack": stack.state_dict()})
            fabric.barrier()  # the other processes read it only once it is whole
    return loops


def load_stack(stack: Stack, folder: RunFolder) -> int:
    """Load into `stack` what a run has finished of it, and return how many stages that is.

    Raises
    ------
    UserError
        When the checkpoint is of another stack.
    """
    checkpoint = folder.load("stack.pt")
    if checkpoint is None:
        return 0
    try:
        stack.load_state_dict(checkpoint["stack"])
    except (RuntimeError, KeyError):
        raise UserError(f"{folder.path / 'stack.pt'} is of another stack: its layers have other shapes.") from None
    return checkpoint["finished"]


def _sample(inputs: Inputs, seed: int) -> Tensor:
    """Return the same few inputs for every purpose of one stage."""
    positions = torch.randperm(len(inputs), generator=generator(seed, "sample"))[:SAMPLE]
    return inputs[positions]
