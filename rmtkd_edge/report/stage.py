"""The report stage: run directories in, report.md, report.html and figures/*.svg out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rmtkd_edge.errors import UserError
from rmtkd_edge.report.collect import collect
from rmtkd_edge.report.page import build, html, markdown, refuse_strangers
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import atomic_write_bytes

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run

MARK = "rmtkd-edge report</title>"  # of every page


@dataclass(frozen=True)
class Written:
    """Where a report is; in a notebook it shows the page."""

    markdown: Path
    html: Path
    figures: tuple[Path, ...]

    def _repr_html_(self) -> str:
        page = escape(self.html.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" title="rmtkd-edge report" width="100%" height="800"></iframe>'


def report_runs(runs: Sequence[Run], out: Path | None = None, against: Sequence[Run] = ()) -> Written:
    """Write the report of one or several runs; the same runs give the same bytes.

    Args:
        runs: a stage that has not been run becomes a note with its command.
        out: a folder; report/ of the first run when left out.
        against: other runs, whose files are drawn next to those of each run by size and quality.

    Returns:
        Where the pages and figures are.

    Raises:
        RunDirError: a file of a run is damaged.
        UserError: there is no run.
    """
    if not runs:
        raise UserError("there is no run to report on", "rmtkd-edge report runs/NAME")
    target = out if out is not None else runs[0].path / layout.REPORT
    facts = collect([*runs, *against])
    document = build(facts[: len(runs)], facts[len(runs) :])
    files = {f"figures/{block.file_name}": block.picture.file() for block in document.pictures()}
    files |= {"report.md": markdown(document), "report.html": html(document)}
    if target != runs[0].path / layout.REPORT:
        refuse_strangers(target / "report.html", MARK, files)
    for rel, content in files.items():  # pages last, so that whoever finds a page finds its figures
        atomic_write_bytes(target / rel, content.encode("utf-8"))
    if out is None:
        _record(runs[0], list(files))
        runs[0].mark("report", "done", runs=len(runs))
    figures = tuple(target / rel for rel in files if rel.startswith("figures/"))
    return Written(target / "report.md", target / "report.html", figures)


def _record(run: Run, files: Sequence[str]) -> None:
    """Put the files of a report into the manifest; figures that only an earlier report had are removed."""
    written = {f"{layout.REPORT}/{rel}" for rel in files}
    for rel in sorted(written):
        run.record(rel)
    earlier = f"{layout.REPORT}/figures/"
    for rel in [rel for rel in run.manifest["files"] if rel.startswith(earlier) and rel not in written]:
        run.remove(rel)
