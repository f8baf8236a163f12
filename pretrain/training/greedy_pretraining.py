"""Greedy layer-wise training: each stage learns from what the trained layers below it make of the images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.data.dataset import refuse_one_color
from pretrain.errors import UserError
from pretrain.network.preprocessing import Images
from pretrain.runs.batch_parts import BatchPart
from pretrain.runs.device import Device
from pretrain.runs.profiling import timed
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.seeding import generator
from pretrain.stages.base import Metrics, Stage
from pretrain.stages.stack import SAMPLE_SIZE, Stack
from pretrain.training.checkpointing import Checkpointing
from pretrain.training.data_parallel import equal_part
from pretrain.training.diagnosis import NOT_SAVED, Diagnosis, require_finite
from pretrain.training.metric_logging import MetricLogging
from pretrain.training.minibatches import BatchOrder
from pretrain.training.optimizers import build_optimizer
from pretrain.training.periodic_evaluation import PeriodicEvaluation
from pretrain.training.recipes import Training
from pretrain.training.schedules import Schedule
from pretrain.training.stage_inputs import Inputs
from pretrain.training.stage_normalization import HEALTH_SAMPLE, health_sample, normalize_stage
from pretrain.training.trainer import Callback, Trainer

HEALTH_CHECKS = 20  # per stage
SAMPLE_BYTES = 2**28  # memory that the sample of a stage's inputs may take


@dataclass(frozen=True)
class StageResult:
    """What training one stage took.

    Attributes
    ----------
    name : str
        Name of the stage, such as "stage 1".
    steps : int
        Updates done.
    seconds : float
        Time to compute the inputs that are kept, to prepare the stage, and to take the steps.
    """

    name: str
    steps: int
    seconds: float


def fit_stage(
    stage: Stage,
    inputs: Inputs,
    training: Training,
    *,
    seed: int,
    name: str,
    fabric: Fabric,
    folder: RunFolder | None = None,
    held_out: Inputs | None = None,
    callbacks: Sequence[Callback] = (),
) -> StageResult:
    """Train one stage of any kind on its inputs.

    Parameters
    ----------
    stage : Stage
        Changed in place.
    inputs : Inputs
        What the stage learns from.
    training : Training
        How long and how fast to learn.
    seed : int
        Names every random draw, together with `name`.
    name : str
        Name of the stage in the log.
    fabric : Fabric
        Device, precision and processes.
    folder : RunFolder, optional
        Where to log and to keep checkpoints. An interrupted run in it is resumed.
    held_out : Inputs, optional
        Inputs that the stage does not learn from, to tell learning from memorizing in the log.
    callbacks : sequence of Callback
        Called after those that log, check and save.

    Returns
    -------
    StageResult
        Steps and seconds.

    Raises
    ------
    UserError
        When the stage cannot learn in this way, or diverges.
    """
    part = _check(stage, training, len(inputs), name, fabric)
    stage.to(fabric.device).to(memory_format=torch.channels_last)
    seen = _sample(inputs, seed)
    started = time.monotonic()
    with timed("preparation"):
        stage.prepare(seen, inputs.bounds, generator(seed, name, "prepare"))
    prepared = time.monotonic() - started
    unseen = health_sample(stage, _sample(held_out, seed)) if held_out else None

    def health() -> Metrics:
        draw = generator(seed, name, "health", device=fabric.device)
        figures = dict(stage.health(health_sample(stage, seen), draw))
        if unseen is not None:
            figures |= stage.held_out_health(figures, stage.health(unseen, draw))
        return figures

    standard: list[Callback] = [Diagnosis(stage.diagnose)]
    if folder:
        evaluation = PeriodicEvaluation(health, every=max(1, training.steps // HEALTH_CHECKS))
        standard = [Checkpointing(folder), *standard, MetricLogging(folder), evaluation]
    trainer = Trainer(
        name=name,
        module=stage,
        optimizer=_stage_optimizer(stage, training),
        training=training,
        compute_gradients=_stage_gradients(stage, inputs, training, seed, name, part),
        seed=seed,
        fabric=fabric,
        callbacks=[*standard, *callbacks],
        constrain=stage.constrain,
        seconds=inputs.seconds + prepared,
    )
    trainer.fit()
    stage.eval()
    with timed("preparation"):
        stage.finish(seen)
    require_finite(
        stage, f"{name}, after its last step", f"lower learning_rate={training.learning_rate:g}. {NOT_SAVED}"
    )
    return StageResult(name, trainer.step, trainer.seconds)


def _check(stage: Stage, training: Training, images: int, name: str, fabric: Fabric) -> BatchPart:
    """Return the part of each batch that this process computes.

    Raises
    ------
    UserError
        When this kind of stage cannot learn in this way from so many images.
    """
    kind = type(stage).__name__
    if stage.objective is None and training.optimizer != "sgd":
        raise UserError(f"{name}, {kind}: it learns by a rule, not a gradient: give training.optimizer=sgd.")
    if min(training.batch_size, images) < stage.least_batch:
        raise UserError(
            f"{name}, {kind}: batch_size={training.batch_size} with {images:,} unlabelled images: it compares the "
            f"images of a batch: give {stage.least_batch} or more of both."
        )
    try:
        return equal_part(fabric, {"batch_size": min(training.batch_size, images), **stage.shared_out})
    except UserError as error:
        raise UserError(f"{name}, {kind}: {error}") from None


def _stage_optimizer(stage: Stage, training: Training) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    return build_optimizer([{"params": parameters, "schedule": Schedule(training)}], training)


def _stage_gradients(
    stage: Stage, inputs: Inputs, training: Training, seed: int, name: str, part: BatchPart
) -> Callable[[int], Metrics]:
    """Return a function that writes the gradients of each step: of its batch, or of two views of each of its images."""
    order = BatchOrder(len(inputs), training.batch_size, seed, name)

    def compute_gradients(step: int) -> Metrics:
        with timed("data"):
            positions = part.take(order(step))
            # The next batch is read while this one is computed.
            inputs.will_need(part.take(order(step + 1)))
            if stage.views is None:
                x = inputs[positions]
            else:
                x = inputs.views(positions, stage.views, part.generator(seed, name, "views", step, 0))
        # The name ends with a number, which is the same in every process, so that older runs keep their draws.
        noise = part.generator(seed, name, "noise", step, 0, device=inputs.fabric.device)
        # A stage that differentiates a loss tells forward and backward apart within this.
        with timed("gradient"):
            return stage.accumulate_grad(x, noise)

    return compute_gradients


def fit_stages(
    stack: Stack,
    images: Images,
    training: Training | Sequence[Training] | None = None,
    *,
    seed: int = 0,
    upto: int | None = None,
    fabric: Fabric | None = None,
    folder: RunFolder | None = None,
    held_out: Images | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[StageResult]:
    """Train the stages of a stack greedily, from the input upwards.

    Parameters
    ----------
    stack : Stack
        Changed in place.
    images : Tensor or LazyImages, (N, C, H, W), uint8 or in [0, 1]
        Unlabelled images.
    training : Training or sequence of Training, optional
        How long and how fast to learn: one for all stages, or one for each.
    seed : int
        Names every random draw.
    upto : int, optional
        Train only the first so many stages.
    fabric : Fabric, optional
        Device, precision and processes. None: the best available.
    folder : RunFolder, optional
        Where to log, and to save the stack after each stage. An interrupted run in it is resumed.
    held_out : Tensor or LazyImages, optional
        Images that nothing learns from, to tell learning from memorizing in the log.
    callbacks : sequence of Callback
        Called in the training of each stage.

    Returns
    -------
    list of StageResult
        One for each stage that this call trained.

    Raises
    ------
    UserError
        When all images are of the same single color, or the stack has fewer stages than `upto`, or `training` has
        another number of entries than the stack has stages, or a stage cannot learn in this way, or diverges.
    """
    refuse_one_color(images)
    fabric = fabric or Device().launch()
    upto = len(stack) if upto is None else upto
    each = list(training) if isinstance(training, Sequence) else [training or Training()] * len(stack)
    if not (1 <= upto <= len(stack) == len(each)):
        raise UserError(f"upto={upto}, training of {len(each)} stages: the stack has {len(stack)} stages.")
    names = [f"stage {k}" for k in range(1, upto + 1)]
    # All stages are checked before the first is trained.
    for stage, wanted, name in zip(stack, each, names, strict=False):
        _check(stage, wanted, len(images), name, fabric)
    stack.to(fabric.device).to(memory_format=torch.channels_last)
    finished = resume_stack(stack, folder) if folder else 0
    results = []
    for position in range(finished, upto):
        stage, wanted, below = stack[position], each[position], stack.below(position)
        inputs = _inputs_of(stage, images, below, wanted, fabric, folder)
        unseen = None if held_out is None else Inputs(held_out, below, fabric, draws=0)
        result = fit_stage(
            stage,
            inputs,
            wanted,
            seed=seed,
            name=names[position],
            fabric=fabric,
            folder=folder,
            held_out=unseen,
            callbacks=callbacks,
        )
        results.append(result)
        with timed("preparation"):
            normalize_stage(stage, _sample(inputs, seed), stack.normalization, names[position], wanted)
        if folder:
            _save_stack(stack, position + 1, folder, fabric)
    return results


def _inputs_of(
    stage: Stage, images: Images, below: nn.Sequential, training: Training, fabric: Fabric, folder: RunFolder | None
) -> Inputs:
    """Return what a stage learns from; random views are never seen twice, so that inputs need not be kept."""
    draws = 0 if stage.views else training.steps * training.batch_size
    with timed("data"):
        return Inputs(images, below, fabric, draws, folder.path if folder and folder.writes else None)


def _save_stack(stack: Stack, finished: int, folder: RunFolder, fabric: Fabric) -> None:
    with timed("checks"):
        folder.save("stack", {"finished": finished, "stack": stack.state_dict()})
    # The other processes read it only once it is whole.
    with timed("exchange"):
        fabric.barrier()


def resume_stack(stack: Stack, folder: RunFolder) -> int:
    """Load the stages that the run in `folder` has finished into `stack`, and return how many they are."""
    state = folder.load("stack")
    return load_stack(stack, state) if state else 0


def load_stack(stack: Stack, state: dict[str, Any]) -> int:
    """Load saved stages into `stack`, and return how many of them are trained.

    Raises
    ------
    UserError
        When the state is that of another stack.
    """
    try:
        stack.load_state_dict(state["stack"])
        return state["finished"]
    except (RuntimeError, KeyError):
        raise UserError("the saved stages belong to another stack: their layers have other shapes.") from None


def _sample(inputs: Inputs, seed: int) -> Tensor:
    """Return a few inputs at random: the same for every purpose of one stage, and fewer of large images."""
    order = torch.randperm(len(inputs), generator=generator(seed, "sample"))
    with timed("data"):
        fit = max(HEALTH_SAMPLE, SAMPLE_BYTES // inputs[order[:1]].nbytes)
        return inputs[order[: min(SAMPLE_SIZE, fit)]]
