"""`report --paper`: finished runs in, paper.html, paper.md, paper.json and figures/*.svg out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.report.page import html, markdown
from rmtkd_edge.report.paper.curves import ablations_of
from rmtkd_edge.report.paper.entries import Entry, read_entries
from rmtkd_edge.report.paper.files import read_files
from rmtkd_edge.report.paper.find import Skipped, find_runs
from rmtkd_edge.report.paper.groups import groups_of
from rmtkd_edge.report.paper.measure import group_record
from rmtkd_edge.report.paper.page import MARK, Found, build
from rmtkd_edge.report.paper.record import PaperRecord, SkippedRecord
from rmtkd_edge.run.directory import atomic_write_bytes
from rmtkd_edge.run.records.base import to_json


@dataclass(frozen=True)
class PaperWritten:
    """Where the pages, the record and the figures are, and what was skipped."""

    html: Path
    markdown: Path
    record: Path
    figures: tuple[Path, ...]
    skipped: tuple[Skipped, ...]


def report_paper(paths: Sequence[Path], out: Path) -> PaperWritten:
    """Write the paper's table and figures for the runs in folders; the same runs give the same bytes.

    Args:
        paths: run directories, and folders that are searched for them.
        out: the folder that is written to.

    Raises:
        UserError: a path is no folder, or there is no finished run.
        RunDirError: a file of the folder that is no page of this kind would be replaced.
    """
    runs, skipped = find_runs(paths)
    entries: list[Entry] = []
    for path in runs:
        read = read_entries(path)
        if isinstance(read, Skipped):
            skipped.append(read)
        else:
            entries += read
    if not entries:
        why = "; ".join(f"{one.run}: {one.why}" for one in skipped[:3])
        raise UserError(f"there is no finished run to compare ({why})", "rmtkd-edge compress RECIPE --out runs/NAME")
    groups = groups_of(entries)
    files, unread = read_files(list(dict.fromkeys(entry.run for entry in entries)))
    ablations = ablations_of(entries)
    record = PaperRecord(
        groups=tuple(map(group_record, groups)),
        curves=tuple(curve for ablation in ablations for curve in ablation.curves),
        files=tuple(files),
        skipped=tuple(SkippedRecord(one.run, one.why, one.hint) for one in (*skipped, *unread)),
    )
    document = build(Found(record, groups, ablations))
    content = {f"figures/{block.file_name}": block.picture.file() for block in document.pictures()}
    content["paper.json"] = json.dumps(to_json(record), indent=1, allow_nan=False) + "\n"
    content |= {"paper.md": markdown(document), "paper.html": html(document)}
    _refuse_strangers(out, list(content))
    for rel, text in content.items():  # pages last, so that whoever finds a page finds its figures
        atomic_write_bytes(out / rel, text.encode("utf-8"))
    figures = tuple(out / rel for rel in content if rel.startswith("figures/"))
    return PaperWritten(out / "paper.html", out / "paper.md", out / "paper.json", figures, tuple((*skipped, *unread)))


def _refuse_strangers(out: Path, files: Sequence[str]) -> None:
    """Raise RunDirError where a file of a folder that holds no page of ours would be replaced."""
    page = out / "paper.html"
    if page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace"):
        return
    for rel in files:
        if (out / rel).exists():
            raise RunDirError(f"{out / rel} is none of our reports, and is not replaced", "choose another --out")
