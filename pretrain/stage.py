"""Train the stages of a stack greedily: ``python -m pretrain.stage data=cifar10 stack=cae out=runs/cae``."""

from pretrain.command_line.command import command
from pretrain.data.sources import load_data
from pretrain.pipelines.stage_training import run_stages
from pretrain.runs.device import device_settings
from pretrain.runs.settings import Config


@command("stage")
def main(config: Config) -> None:
    """Train all the stages, or the first ``upto``; go on with a run that is there."""
    fabric = device_settings(config["device"]).launch()
    summary = run_stages(config, load_data(config["data"], fabric), fabric)
    if fabric.global_rank == 0:
        print(f"{summary['stages']} stages of {summary['stack']} trained in {summary['pretrain_seconds']:.0f} s")
        print(f"filters, health, reconstructions and samples: {config['out']}/stage*.png")


if __name__ == "__main__":
    main()
