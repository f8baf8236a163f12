"""Write a comparison's report again, from what its folder holds: ``python -m pretrain.report run=runs/digits``."""

from pathlib import Path

from pretrain.config import command
from pretrain.reporting import write_report
from pretrain.runs import Config


@command("report")
def main(config: Config) -> None:
    """Write results.csv, results.json, report.html and report.md."""
    report = write_report(Path(config["run"]))
    print(report.headline)
    print(f"report: {report.path}")


if __name__ == "__main__":
    main()
