"""Compare arms over label budgets and seeds: ``python -m pretrain.compare experiment=digits out=runs/digits``."""

from pretrain.comparison import compare
from pretrain.config import command
from pretrain.reporting import write_report
from pretrain.runs import Config


@command("compare")
def main(config: Config) -> None:
    """Run what is missing, then write the report."""
    report = write_report(compare(config))
    print(report.headline)
    print(f"report: {report.path}")


if __name__ == "__main__":
    main()
