"""Probe what each layer has learned: ``python -m pretrain.probe init=pretrained stages=runs/cae labels=1000``."""

from pretrain.command_line.command import command
from pretrain.data.sources import load_data
from pretrain.pipelines.layer_probing import run_probe
from pretrain.runs.device import device_settings
from pretrain.runs.settings import Config


@command("probe")
def main(config: Config) -> None:
    """Fit a linear classifier to the frozen features of each depth, then test it, once."""
    fabric = device_settings(config["device"]).launch()
    summary = run_probe(config, load_data(config["data"], fabric), fabric)
    if fabric.global_rank == 0:
        print(f"{summary['arm']}, {summary['labels']:,} labels, seed {summary['seed']}: linear probe of each depth")
        print(f"{'layers':>6}{'features':>10}{'C':>10}{'validation':>12}{'test':>10}")
        for row in summary["depths"]:
            print(
                f"{row['depth']:>6}{row['features']:>10,}{row['C']:>10g}{row['val_accuracy']:>12.2%}"
                f"{row['test_accuracy']:>10.2%}"
            )
        print(f"numbers: {config['out']}/summary.json")


if __name__ == "__main__":
    main()
