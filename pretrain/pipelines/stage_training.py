"""Run the training of the stages of a stack."""

from collections import defaultdict
from contextlib import suppress
from typing import Any

import torch
from lightning_fabric import Fabric

from pretrain.data.dataset import Dataset
from pretrain.data.fingerprints import rows_of_bytes
from pretrain.data.lazy_images import LazyImages
from pretrain.errors import UserError
from pretrain.pictures.drawing import save_figure
from pretrain.pictures.filter_grids import draw_filters
from pretrain.pictures.health_panels import draw_health
from pretrain.pictures.reconstructions import draw_reconstructions
from pretrain.pictures.samples import draw_samples
from pretrain.pipelines.run_settings import POOL, RunSettings, StageRun
from pretrain.runs.profiling import timed
from pretrain.runs.progress import complain
from pretrain.runs.run_folder import RunFolder, open_run
from pretrain.runs.seeding import generator
from pretrain.runs.tensor_files import save_state
from pretrain.stages.stack import Stack
from pretrain.training.flop_counting import stage_flops
from pretrain.training.greedy_pretraining import fit_stages, resume_stack
from pretrain.training.stack_building import StackPlan, build_stack
from pretrain.training.step_traces import StepTrace

IMAGES_PER_PICTURE = 8


def run_stages(settings: StageRun, data: Dataset, fabric: Fabric) -> dict[str, Any]:
    """Train the stages of a stack in the folder ``settings.out``, or resume their training.

    Returns
    -------
    dict
        Contents of summary.json, for the stages trained so far.
    """
    # Stages see no labels and no test images, so these may change.
    with open_run(settings, data.digests, fabric, ignore=["labelled_digest"]) as folder:
        return summary_of_complete(settings, folder) or _train(settings, data, fabric, folder)


def _train(settings: StageRun, data: Dataset, fabric: Fabric, folder: RunFolder) -> dict[str, Any]:
    """Train the stages that are missing, draw them, and return the summary."""
    data.record_in(folder)
    pool = _pool(settings, data)
    with timed("preparation"):
        record_pool(folder, pool)
        plan = build_stack(settings.stack, pool, settings.seed)
    upto = len(plan.stack) if settings.upto is None else settings.upto
    finished = resume_stack(plan.stack, folder)
    held_out = data.validation.images if len(data.validation) else None
    # An interruption may have left the last finished stage without its pictures.
    for count in range(finished, upto + 1):
        if count > finished:
            run = {"seed": settings.seed, "fabric": fabric, "folder": folder, "callbacks": traces(settings, folder)}
            fit_stages(plan.stack, pool, plan.training, upto=count, held_out=held_out, **run)  # type: ignore[arg-type]
        with timed("pictures"):
            _draw_stage(plan.stack, count, data, folder)
    summary = _stages_summary(settings, plan, len(pool), folder, stages=max(finished, upto))
    summary["skipped"] = len(data.skipped)
    return complete_run(folder, summary, fabric) if summary["stages"] == len(plan.stack) else summary


def summary_of_complete(settings: RunSettings, folder: RunFolder) -> dict[str, Any] | None:
    """Return the summary of a run that is complete already, and say so to a user who wants to profile it."""
    summary = folder.summary()
    if summary and settings.profile:
        complain(f"note: the run in {settings.out} is complete, so nothing is left to profile: give another out=.")
    return summary


def traces(settings: RunSettings, folder: RunFolder) -> list[StepTrace]:
    """Return the callback that records steps of a run that is profiled."""
    return [StepTrace(folder)] if settings.profile else []


def complete_run(folder: RunFolder, summary: dict[str, Any], fabric: Fabric) -> dict[str, Any]:
    """Mark a run as complete after all processes have finished and before any continues; return the whole summary."""
    with timed("exchange"):
        fabric.barrier()
    with timed("logging"):
        folder.write_summary(summary)
    with timed("exchange"):
        fabric.barrier()
    return folder.summary() or summary


def _pool(settings: StageRun, data: Dataset) -> LazyImages:
    """Return the unlabelled images that the stages learn from; pools of one seed are nested."""
    count = settings.num_unlabelled
    if count is None:
        return data.unlabelled
    if count > len(data.unlabelled):
        raise UserError(f"num_unlabelled={count} exceeds the {len(data.unlabelled):,} unlabelled images: give fewer.")
    order = torch.randperm(len(data.unlabelled), generator=generator(settings.seed, "pool"))
    return data.unlabelled.subset(order[:count].sort().values)


def record_pool(folder: RunFolder, pool: LazyImages) -> None:
    """Write the fingerprints of the images that stages learn from, by which a later run tells what it shares."""
    if folder.writes and not (folder.path / POOL).exists():
        save_state(folder.path / POOL, {"fingerprints": torch.from_numpy(rows_of_bytes(pool.prints))})


def _draw_stage(stack: Stack, count: int, data: Dataset, folder: RunFolder) -> None:
    """Draw the filters, health, reconstructions and samples of stage `count`, where it has them."""
    if count == 0 or not folder.writes:
        return
    stack = stack.cpu().eval()
    chosen = torch.randperm(len(data.unlabelled), generator=generator(0, "pictures"))[:IMAGES_PER_PICTURE]
    images, name = data.unlabelled[chosen], f"stage {count}"
    log = [row for row in folder.metrics() if row["phase"] == name]
    drawings = {
        "filters": lambda: draw_filters(stack, count),
        "health": lambda: draw_health(log, f"Stage {count}", stack[count - 1].metrics),
        "reconstructions": lambda: draw_reconstructions(stack, images, count),
        "samples": lambda: draw_samples(stack, images, count, generator(0, "pictures", "samples", count)),
    }
    for kind, draw in drawings.items():
        with suppress(NotImplementedError):
            save_figure(draw, folder.path / f"stage{count}-{kind}.png")


def _stages_summary(settings: StageRun, plan: StackPlan, pool: int, folder: RunFolder, stages: int) -> dict[str, Any]:
    """Return the contents of summary.json for the first `stages` stages, trained on `pool` images."""
    last: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in folder.metrics():
        last[row["phase"]] |= row
    rows = [last[f"stage {k}"] for k in range(1, stages + 1)]
    drawn = [training.steps * min(training.batch_size, pool) for training in plan.training[:stages]]
    seconds = [row["seconds"] for row in rows]
    return {
        "stack": settings.stack.name,
        "seed": settings.seed,
        "stages": stages,
        "unlabelled": pool,
        "pretrain_seconds": round(sum(seconds), 3),
        "stage_seconds": seconds,
        "stage_flops": [stage_flops(plan.stack, k, plan.training[k], pool) for k in range(stages)],
        "images": sum(drawn),
        "images_per_second": [round(d / s, 1) for d, s in zip(drawn, seconds, strict=True)],
        "last": [{k: v for k, v in row.items() if k not in ("phase", "step", "seconds")} for row in rows],
    }
