"""Write the report of comparisons, from what their folders hold: ``python -m pretrain.report run=runs/digits``."""

from pathlib import Path

from pretrain.command_line.command import command
from pretrain.comparison.workers import exclusively
from pretrain.errors import UserError
from pretrain.reporting.html_report import write_report
from pretrain.reporting.side_by_side import write_side_by_side
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.settings import Config


@command("report")
def main(config: Config) -> None:
    """Write the report of one comparison, or of several side by side."""
    runs = config["run"] if isinstance(config["run"], list) else [config["run"]]
    paths = [Path(str(run)).expanduser() for run in runs]
    if not paths:
        raise UserError("run=[] names no comparison: give one folder or more.")
    if len(paths) == 1:
        RunFolder(paths[0]).config()  # or a lock would be written beside what is not there
        with exclusively(config["out"] or paths[0]):
            report = write_report(paths[0], config["out"])
    elif config["out"] is None:
        raise UserError("out is missing: a report over several comparisons needs a folder of its own, out=DIR.")
    else:
        report = write_side_by_side(paths, config["out"])
    print(report.headline)
    print(f"report: {report.path}")


if __name__ == "__main__":
    main()
