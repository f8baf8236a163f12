"""Probe the features of each layer: ``python -m pretrain.probe init=pretrained stages=runs/cae labels=1000``.

The work is done in `pretrain.pipelines.layer_probing`.
"""

from pretrain.command_line.command import command
from pretrain.pipelines.run_settings import ProbeRun


@command(ProbeRun)
def main(settings: ProbeRun) -> None:
    """Fit a linear classifier to the frozen features of each depth, then test it once."""
    if settings.dry_run:
        from pretrain.comparison.dry_run import dry_run
        from pretrain.runs.progress import tell

        tell(dry_run(settings))
        return
    from pretrain.data.loading import load_data
    from pretrain.pipelines.layer_probing import run_probe
    from pretrain.runs.profiling import profiled, timed

    fabric = settings.device.launch()
    with profiled(fabric, wanted=settings.profile):
        with timed("decoding"):
            data = load_data(settings.data, fabric)
        summary = run_probe(settings, data, fabric)
    if fabric.global_rank == 0:
        print(f"{summary['arm']}, {summary['labels']:,} labels, seed {summary['seed']}: linear probe of each depth")
        print(f"{'layers':>6}{'features':>10}{'C':>10}{'validation':>12}{'test':>10}")
        for row in summary["depths"]:
            print(
                f"{row['depth']:>6}{row['features']:>10,}{row['C']:>10g}{row['val_accuracy']:>12.2%}"
                f"{row['test_accuracy']:>10.2%}"
            )
        print(f"numbers: {settings.out}/summary.json")


if __name__ == "__main__":
    main()
