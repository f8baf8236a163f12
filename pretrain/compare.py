"""Compare arms over label budgets and seeds: ``python -m pretrain.compare experiment=digits out=runs/digits``.

The work is done in `pretrain.comparison.worker_processes`, or on Slurm by `pretrain.comparison.slurm_jobs`, and
`pretrain.reporting.html_report` writes the report.
"""

from pretrain.command_line.command import command
from pretrain.comparison.plan import Comparison
from pretrain.errors import UserError


@command(Comparison)
def main(comparison: Comparison) -> None:
    """Run what is missing, then write the report and print its headline; or submit workers that do so."""
    if comparison.dry_run:
        from pretrain.comparison.dry_run import dry_run
        from pretrain.runs.progress import tell

        tell(dry_run(comparison))
        return
    from pretrain.comparison.slurm_jobs import submit_workers
    from pretrain.comparison.worker_processes import run_comparison
    from pretrain.comparison.workers import exclusively
    from pretrain.reporting.html_report import write_report
    from pretrain.runs.progress import is_first_process

    if comparison.slurm.workers:
        _, advice = submit_workers(comparison, write_report)
        print("\n".join(advice))
        return

    failures = run_comparison(comparison)
    if is_first_process():
        with exclusively(comparison.out):
            report = write_report(comparison.out)
        print(f"{report.headline}\nreport: {report.path}")
    if failures:
        count = f"{len(failures)} run{'s' * (len(failures) > 1)}"
        raise UserError(f"{count} failed, and the report names them; the first: {failures[0]}")


if __name__ == "__main__":
    main()
