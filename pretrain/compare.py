"""Compare arms over label budgets and seeds: ``python -m pretrain.compare experiment=digits out=runs/digits``."""

from lightning_fabric.utilities.rank_zero import rank_zero_only

from pretrain.command_line.command import command
from pretrain.comparison.workers import compare, exclusively
from pretrain.errors import UserError
from pretrain.reporting.html_report import write_report
from pretrain.runs.settings import Config


@rank_zero_only
def report_on(out: str) -> None:
    """Write the report, and say what it says first."""
    with exclusively(out):
        report = write_report(out)
    print(f"{report.headline}\nreport: {report.path}")


@command("compare")
def main(config: Config) -> None:
    """Run what is missing, then write the report."""
    failures = compare(config)
    report_on(config["out"])
    if failures:
        count = f"{len(failures)} run{'s' * (len(failures) > 1)}"
        raise UserError(f"{count} failed, and the report names them; the first: {failures[0]}")


if __name__ == "__main__":
    main()
