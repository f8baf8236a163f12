"""Train the stages of a stack greedily: ``python -m pretrain.stage data=cifar10 stack=cae out=runs/cae``.

The work is done in `pretrain.pipelines.stage_training`.
"""

from pretrain.command_line.command import command
from pretrain.pipelines.run_settings import StageRun


@command(StageRun)
def main(settings: StageRun) -> None:
    """Train all stages or the first ``upto``, and resume a run that is in the folder."""
    if settings.dry_run:
        from pretrain.comparison.dry_run import dry_run
        from pretrain.runs.progress import tell

        tell(dry_run(settings))
        return
    from pretrain.data.loading import load_data
    from pretrain.pipelines.stage_training import run_stages
    from pretrain.runs.profiling import profiled, timed

    fabric = settings.device.launch()
    with profiled(fabric, wanted=settings.profile):
        with timed("decoding"):
            data = load_data(settings.data, fabric)
        summary = run_stages(settings, data, fabric)
    if fabric.global_rank == 0:
        print(f"{summary['stages']} stages of {summary['stack']} trained in {summary['pretrain_seconds']:.0f} s")
        print(f"filters, health, reconstructions and samples: {settings.out}/stage*.png")


if __name__ == "__main__":
    main()
