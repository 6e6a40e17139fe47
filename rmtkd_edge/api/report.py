"""`report`: what one or several runs found, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.lock import open_to_write

if TYPE_CHECKING:
    from rmtkd_edge.report.paper.stage import PaperWritten
    from rmtkd_edge.report.stage import Written


def report(*runs: Path | str, out: Path | str | None = None, against: Sequence[Path | str] = ()) -> Written:
    """Write report.md, report.html and the figures of one or several runs.

    Args:
        runs: run directories; stages that have not been run become a note with their command.
        out: a folder; report/ of the first run when left out.
        against: other runs, whose files are drawn next to those of each run by size and quality. One of other test
            rows is named with the reason, and not drawn.

    Returns:
        Where the pages and figures are; in a notebook it shows the page.

    Raises:
        RunDirError: a file of a run is damaged; without `out`, another process writes to the first run.
    """
    from rmtkd_edge.report.stage import report_runs

    paths, others = [Path(run) for run in runs], [Run.open(path) for path in against]
    if out is not None or not paths:
        return report_runs([Run.open(path) for path in paths], None if out is None else Path(out), others)
    with open_to_write(paths[0]) as first:
        return report_runs([first, *(Run.open(path) for path in paths[1:])], None, others)


def paper(
    *runs: Path | str, out: Path | str = "paper", reference: Path | str | None = None, equal_time: bool = False
) -> PaperWritten:
    """Write the RMT-KD paper's table and figures for finished runs: paper.html, paper.md, paper.json, figures.

    Args:
        runs: run directories, or folders that contain them.
        out: a folder.
        reference: a run of RMT-KD whose setting the others are compared with; found by a rule when left out.
        equal_time: a budget of time set the steps, so that runs that differ in these alone are one setting.

    Returns:
        Where the files are, and which runs were skipped.

    Raises:
        UserError: there is no finished run.
    """
    from rmtkd_edge.report.paper.stage import report_paper

    base = None if reference is None else Path(reference)
    return report_paper([Path(run) for run in runs], Path(out), base, equal_time=equal_time)
