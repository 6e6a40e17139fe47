"""Groups as records: means over seeds, their spread, and the comparison with RMT-KD row by row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean, stdev

import numpy as np

from rmtkd_edge.report.paper.compare import paired
from rmtkd_edge.report.paper.curves import AXES
from rmtkd_edge.report.paper.entries import PARTS, Entry
from rmtkd_edge.report.paper.groups import Differences, Group, Setting
from rmtkd_edge.report.paper.record import GroupRecord, PairedRecord, RowRecord
from rmtkd_edge.tasks.base import find_task


def group_record(group: Group, drawn: Collection[str] = ()) -> GroupRecord:
    """Return the figures of a group.

    Args:
        drawn: runs of Fig. 5: a setting whose rule and quantile differ is no row of the table where all its runs are.
    """
    first, scores, reference = group.first, group.scores, group.reference
    ablations = group.ablations
    shown: list[tuple[Setting, Differences]] = [(setting, {}) for setting in group.references.values()]
    shown += [pair for pair in group.others if pair not in ablations and not _is_drawn(*pair, drawn)]
    return GroupRecord(
        task=first.record.task.name,
        kind=first.record.task.kind,
        metric=scores.primary,
        percent=scores.percent,
        split=scores.split,
        rows=scores.rows,
        teacher_sha256=first.teacher_sha256,
        rows_sha256=first.rows_sha256,
        asked=first.asked,
        teacher_value=scores.value,
        teacher_parameters=group.teacher.parameters,
        table=tuple(_row(setting, differs, reference) for setting, differs in shown),
        ablations=tuple(_row(setting, differs, reference) for setting, differs in ablations),
        repeated=group.repeated,
    )


def _is_drawn(setting: Setting, differs: Differences, drawn: Collection[str]) -> bool:
    return set(differs) == set(AXES) and all(entry.run in drawn for entry in setting.entries)


def _row(setting: Setting, differs: Differences, reference: Setting | None) -> RowRecord:
    entries = setting.entries
    changes = [entry.change for entry in entries]
    compared, why = _paired(setting, reference)
    return RowRecord(
        method=setting.method,
        differs=differs,
        runs=tuple(entry.run for entry in entries),
        seeds=tuple(entry.seed for entry in entries),
        parameters=fmean(entry.member.student.parameters for entry in entries),
        reduction=fmean(entry.member.reduction for entry in entries),
        body_reduction=_body_reduction(entries),
        value=fmean(entry.student.value for entry in entries),
        change=fmean(changes),
        change_sd=stdev(changes) if len(changes) > 1 else None,
        steps=fmean(entry.steps for entry in entries),
        steps_by_seed=tuple(entry.steps for entry in entries),
        seconds={part: fmean(entry.seconds[part] for entry in entries) for part in PARTS},
        devices=tuple(dict.fromkeys(entry.record.device for entry in entries)),
        paired=compared,
        why_not_paired=why,
    )


def _body_reduction(entries: Sequence[Entry]) -> float | None:
    shares = [1 - e.student_body / e.teacher_body for e in entries if e.student_body is not None and e.teacher_body]
    return fmean(shares) if len(shares) == len(entries) else None


def _paired(setting: Setting, reference: Setting | None) -> tuple[PairedRecord | None, str]:
    """Return the comparison with RMT-KD's reference, or None and why there is none."""
    if reference is None:
        return None, "no run of rmt-kd has this teacher, these rows and this target"
    if setting is reference:
        return None, "it is what the others are compared with"
    for one in (reference, setting):
        if not one.outputs:
            return None, one.entries[0].why
    mine, other = setting.outputs, reference.outputs
    targets = next(entry.targets for entry in setting.entries if entry.outputs is not None)
    for entry in (*setting.entries, *reference.entries):
        if entry.outputs is not None and not _same(entry.targets, targets):
            return None, f"{entry.run} keeps other targets than {setting.entries[0].run}"
    task = find_task(setting.entries[0].record.task.kind)
    found = paired(task, setting.entries[0].student.primary, mine, other, targets)
    if found is None:
        return None, "most draws of these rows do not allow the metric"
    record = PairedRecord(
        found.difference, found.low, found.high, found.rows, *found.seeds, mcnemar_p=found.p, clear=found.clear
    )
    return record, ""


def _same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))
