"""Fine-tune an assembled network: ``python -m pretrain.finetune init=pretrained stages=runs/cae labels=1000``.

The work is done in `pretrain.pipelines.network_finetuning`.
"""

from pretrain.command_line.command import command
from pretrain.pipelines.run_settings import FinetuningRun


@command(FinetuningRun)
def main(settings: FinetuningRun) -> None:
    """Train end to end on the label budget, then evaluate once on the test split."""
    if settings.dry_run:
        from pretrain.comparison.dry_run import dry_run
        from pretrain.runs.progress import tell

        tell(dry_run(settings))
        return
    from pretrain.data.loading import load_data
    from pretrain.pipelines.network_finetuning import run_finetune
    from pretrain.runs.profiling import profiled, timed

    fabric = settings.device.launch()
    with profiled(fabric, wanted=settings.profile):
        with timed("decoding"):
            data = load_data(settings.data, fabric)
        summary = run_finetune(settings, data, fabric)
    if fabric.global_rank == 0:
        shares = {"test": summary["test_accuracy"], "validation": summary["val_accuracy"]}
        measured = [f"{split} accuracy {share:.2%}" for split, share in shares.items() if share is not None]
        print(
            f"{summary['arm']}, {summary['labels']:,} labels, seed {summary['seed']}: "
            f"{(measured or ['no accuracy measured'])[0]}, {summary['steps']:,} steps in "
            f"{summary['finetune_seconds']:.0f} s"
        )
        print(f"numbers and pictures: {settings.out}")


if __name__ == "__main__":
    main()
