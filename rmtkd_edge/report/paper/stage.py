"""`report --paper`: finished runs in, paper.html, paper.md, paper.json and figures/*.svg out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.report.page import html, markdown, refuse_strangers
from rmtkd_edge.report.paper.gather import gather
from rmtkd_edge.report.paper.page import MARK, build
from rmtkd_edge.report.paper.record import SkippedRecord
from rmtkd_edge.run.directory import atomic_write_bytes
from rmtkd_edge.run.records.base import to_json


@dataclass(frozen=True)
class PaperWritten:
    """Where the pages, the record and the figures are, and what was skipped."""

    html: Path
    markdown: Path
    record: Path
    figures: tuple[Path, ...]
    skipped: tuple[SkippedRecord, ...]


def report_paper(
    paths: Sequence[Path], out: Path, reference: Path | None = None, *, equal_time: bool = False
) -> PaperWritten:
    """Write the paper's table and figures for the runs in folders; the same runs give the same bytes.

    Args:
        paths: run directories, and folders that are searched for them.
        out: the folder that is written to.
        reference: a run of RMT-KD whose setting is the reference; chosen by a rule of its own when left out.
        equal_time: a budget of time set the steps, so that runs that differ in these alone are one setting.

    Raises:
        UserError: a path is no folder, there is no finished run, or the reference is none.
        RunDirError: a file of the folder that is no page of this kind would be replaced.
    """
    found = gather(paths, reference, equal_time=equal_time)
    document = build(found)
    content = {f"figures/{block.file_name}": block.picture.file() for block in document.pictures()}
    content["paper.json"] = json.dumps(to_json(found.record), indent=1, allow_nan=False) + "\n"
    content |= {"paper.md": markdown(document), "paper.html": html(document)}
    refuse_strangers(out / "paper.html", MARK, content)
    for rel, text in content.items():  # pages last, so that whoever finds a page finds its figures
        atomic_write_bytes(out / rel, text.encode("utf-8"))
    figures = tuple(out / rel for rel in content if rel.startswith("figures/"))
    return PaperWritten(out / "paper.html", out / "paper.md", out / "paper.json", figures, found.record.skipped)
