"""The report stage: run directories in, report.md, report.html and figures/*.svg out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.errors import UserError
from rmtkd_edge.report.collect import collect
from rmtkd_edge.report.page import build, html, markdown
from rmtkd_edge.run.directory import atomic_write_bytes

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


def report_runs(runs: list[Run], out: Path | None = None) -> dict[str, Any]:
    """Write the report of one or several runs, by default into report/ of the first, and return the paths.

    Returns {"markdown": Path, "html": Path, "figures": [Path, ...]}. Same runs, same bytes. A stage that has
    not been run becomes a note with its command; RunDirError where a file is damaged, UserError where no run is given.
    """
    if not runs:
        raise UserError("there is no run to report on", "rmtkd-edge report runs/NAME")
    target = Path(out) if out is not None else runs[0].path / "report"
    document = build(collect(runs))
    files = {f"figures/{block.file_name}": block.picture.file() for block in document.pictures()}
    files |= {"report.md": markdown(document), "report.html": html(document)}
    _write(target, files)
    if out is None:
        for rel in sorted(files):
            runs[0].record(f"report/{rel}")
        for rel in [r for r in runs[0].manifest["files"] if r.startswith("report/figures/") and r[7:] not in files]:
            runs[0].remove(rel)  # a figure of an earlier report that this one no longer has
        runs[0].mark("report", "done", runs=len(runs))
    figures = [target / rel for rel in files if rel.startswith("figures/")]
    return {"markdown": target / "report.md", "html": target / "report.html", "figures": figures}


def _write(target: Path, files: dict[str, str]) -> None:
    """Write in the given order: pages last, so that whoever finds a page finds its figures."""
    for rel, content in files.items():
        path = target / rel
        atomic_write_bytes(path, content.encode("utf-8"))
