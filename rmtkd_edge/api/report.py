"""`report`: what one or several runs found, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmtkd_edge.run.directory import Run

if TYPE_CHECKING:
    from rmtkd_edge.report.stage import Written


def report(*runs: Path | str, out: Path | str | None = None) -> Written:
    """Write report.md, report.html and the figures of one or several runs.

    Args:
        runs: run directories; stages that have not been run become a note with their command.
        out: a folder; report/ of the first run when left out.

    Returns:
        Where the pages and figures are; in a notebook it shows the page.

    Raises:
        RunDirError: a file of a run is damaged.
    """
    from rmtkd_edge.report.stage import report_runs

    return report_runs([Run.open(Path(run)) for run in runs], None if out is None else Path(out))
