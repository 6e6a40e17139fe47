"""From folders to all that the page says: runs are found and read, grouped, compared and measured; nothing is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rmtkd_edge.errors import UserError
from rmtkd_edge.report.paper.curves import Ablation, ablations_of
from rmtkd_edge.report.paper.entries import Entry, read_entries
from rmtkd_edge.report.paper.files import read_files
from rmtkd_edge.report.paper.find import Skipped, find_runs
from rmtkd_edge.report.paper.groups import Group, groups_of
from rmtkd_edge.report.paper.measure import group_record
from rmtkd_edge.report.paper.record import PaperRecord, SkippedRecord
from rmtkd_edge.run.layout import DEFAULT_METHOD

STEPS = "distil.steps"


@dataclass(frozen=True)
class Found:
    """What the page is made of; the record's groups are those of `groups`, in the same order."""

    record: PaperRecord
    groups: Sequence[Group]
    ablations: Sequence[Ablation]


def gather(paths: Sequence[Path], reference: Path | None = None, *, equal_time: bool = False) -> Found:
    """Return what finished runs say.

    Args:
        paths: run directories, and folders that are searched for them.
        reference: a run of RMT-KD whose setting is the reference; chosen by a rule of its own when left out.
        equal_time: a budget of time set the steps, so that runs that differ in these alone are one setting.

    Raises:
        UserError: a path is no folder, there is no finished run, or the reference is none.
    """
    runs, skipped = find_runs(paths if reference is None else [*paths, reference])
    entries: list[Entry] = []
    for path in runs:
        read = read_entries(path)
        if isinstance(read, Skipped):
            skipped.append(read)
        else:
            entries += map(without_steps, read) if equal_time else read
    if not entries:
        why = "; ".join(f"{one.run}: {one.why}" for one in skipped[:3])
        raise UserError(f"there is no finished run to compare ({why})", "rmtkd-edge compress RECIPE --out runs/NAME")
    groups = groups_of(entries, None if reference is None else _settings_of(reference, entries))
    files, unread = read_files(list(dict.fromkeys(entry.run for entry in entries)))
    ablations = ablations_of(entries)
    drawn = {run for ablation in ablations for run in ablation.drawn}
    record = PaperRecord(
        groups=tuple(group_record(group, drawn) for group in groups),
        curves=tuple(curve for ablation in ablations for curve in ablation.curves),
        files=tuple(files),
        skipped=tuple(SkippedRecord(one.run, one.why, one.hint) for one in (*skipped, *unread)),
    )
    return Found(record, groups, ablations)


def without_steps(entry: Entry) -> Entry:
    """Return an entry whose setting does not name its steps."""
    return replace(entry, settings={key: value for key, value in entry.settings.items() if key != STEPS})


def _settings_of(reference: Path, entries: Sequence[Entry]) -> Mapping[str, str]:
    """Return the settings of the reference; raise UserError where it is no finished run of RMT-KD."""
    mine = [entry for entry in entries if Path(entry.run).resolve() == reference.resolve()]
    if not mine or mine[0].method != DEFAULT_METHOD:
        raise UserError(f"{reference} is no finished run of {DEFAULT_METHOD}", "--reference RUN, a run directory")
    return mine[-1].settings
