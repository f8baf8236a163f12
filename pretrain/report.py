"""Write the report of comparisons from their folders: ``python -m pretrain.report run=runs/digits``.

The work is done in `pretrain.reporting.html_report` and, for several comparisons, `pretrain.reporting.side_by_side`.
"""

import os
from dataclasses import dataclass
from typing import Annotated

from pretrain.command_line.command import command
from pretrain.errors import UserError
from pretrain.runs.setting_types import ONE_OR_MORE, FileName
from pretrain.runs.typed_settings import Settings


@dataclass(frozen=True)
class ReportSettings(Settings):
    """Settings of the command.

    Attributes
    ----------
    run : str or list of str
        Folder of a comparison, or several folders; the others are compared with the first.
    out : str, optional
        Folder of the report; None for the comparison's own, if there is only one.
    """

    run: Annotated[list[FileName], ONE_OR_MORE]
    out: FileName | None = None


@command(ReportSettings)
def main(settings: ReportSettings) -> None:
    """Write the report of one comparison, or of several side by side."""
    paths = settings.run
    if not paths:
        raise UserError("run=[] names no comparison: give one folder or more.")
    if len(paths) == 1 and not os.path.exists(os.path.join(paths[0], "config.yaml")):
        raise UserError(f"{paths[0]} holds no run (no config.yaml).")
    if len(paths) > 1 and settings.out is None:
        raise UserError("out is missing: a report over several comparisons needs a folder of its own, out=DIR.")
    from pretrain.comparison.workers import exclusively
    from pretrain.reporting.html_report import write_report
    from pretrain.reporting.side_by_side import write_side_by_side

    if len(paths) == 1:
        with exclusively(settings.out or paths[0]):
            report = write_report(paths[0], settings.out)
    else:
        report = write_side_by_side(paths, settings.out)  # type: ignore[arg-type]
    print(f"{report.headline}\nreport: {report.path}")


if __name__ == "__main__":
    main()
