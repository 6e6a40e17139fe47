"""Table I of measured runs, what each setting of RMT-KD adds, and the paper's own table apart from both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, Cell, Footnotes, NoteBlock, Row, TableBlock, group, text_row
from rmtkd_edge.report.paper import published
from rmtkd_edge.report.paper.entries import PARTS
from rmtkd_edge.report.paper.record import CurveRecord, GroupRecord, PairedRecord, RowRecord
from rmtkd_edge.run.layout import DEFAULT_METHOD

SEEDS = (
    "Student minus teacher on the same rows: mean over seeds, ± their sample deviation; one seed alone has no spread."
)
PAIRED = (
    "The row's method minus RMT-KD, each the mean over its seeds, on the same rows, with the 95 % percentile interval "
    "of a paired bootstrap over rows. Seeds are held fixed in it: it says what other rows could have given for these "
    "runs; how much seeds differ says the spread under Change."
)
MCNEMAR = (
    "McNemar's exact two-sided p of runs of the same seed; of several seeds, whose tests share their rows, K/k times "
    "the k-th smallest of K, k = K/2 rounded up (Rüger 1978), which holds however they depend on each other."
)
SECONDS = (
    "Of compression alone, without reading data and training the teacher; search: spectra and the search for widths. "
    "Times of different machines cannot be compared."
)
BODY = "All parameters but the word table (both factors of one that was cut) and the classifier."
COLUMNS = ("Method", "Removed", "Of the body", "Student", "Change", "Minus RMT-KD", "Steps", "Time")


def group_title(found: GroupRecord) -> str:
    """Return what the students of a group share, in words."""
    asked = "no size was asked for" if found.asked is None else f"{text.percent(found.asked)} asked for"
    rows = f"{text.count(found.rows)} rows of {found.split}"
    teacher = f"teacher {found.teacher_sha256[:8] or 'unknown'} of {text.short_count(found.teacher_parameters)}"
    value = value_text(found, found.teacher_value)
    return f"{found.task}, {asked}: {teacher}, {text.metric_name(found.metric)} {value} on {rows}"


def table_one(groups: Sequence[GroupRecord]) -> TableBlock:
    """Return Table I: one row a method, under a heading a group."""
    foot = Footnotes()
    rows = []
    for found in groups:
        rows.append(group(group_title(found)))
        rows += [_row(found, row, foot) for row in found.table]
    marks = (foot.mark(BODY), foot.mark(SEEDS), foot.mark(SECONDS), foot.mark(PAIRED), foot.mark(MCNEMAR))
    titles = list(COLUMNS)
    for column, mark in ((2, marks[0]), (4, marks[1]), (5, ", ".join(marks[3:])), (7, marks[2])):
        titles[column] = f"{titles[column]} ({mark})"
    caption = "What every method removes and what it costs, measured. Groups are not compared with each other."
    return TableBlock(caption, tuple(titles), tuple(rows), frozenset(), foot.notes())


def _row(found: GroupRecord, row: RowRecord, foot: Footnotes) -> Row:
    share = row.body_reduction
    no_body = "the family does not tell word table and classifier apart"
    body = foot.cell(no_body) if share is None else Cell(text.percent(share))
    return Row(
        (
            Cell(text.method_name(row.method), tuple(setting_lines(row))),
            Cell(text.percent(row.reduction), (f"{text.short_count(row.parameters)} left",)),
            body,
            Cell(value_text(found, row.value)),
            change_cell(found, row),
            paired_cell(found, row, foot),
            steps_cell(row.steps_by_seed),
            _time_cell(row),
        )
    )


def steps_cell(steps: Sequence[int]) -> Cell:
    """Return the optimiser steps: their mean over seeds, and the least and the most where they differ."""
    least, most = min(steps), max(steps)
    span = () if least == most else (f"{text.count(least)} to {text.count(most)}",)
    return Cell(text.count(fmean(steps)), span)


def setting_lines(row: RowRecord) -> list[str]:
    """Return in which keys a row differs from its method's reference."""
    return [f"{key} = {plain(mine)}, not {plain(other)}" for key, (mine, other) in row.differs.items()]


def plain(value: str) -> str:
    """Return a value of a recipe as people write it: text without quotes, null as unset."""
    found = json.loads(value)
    return "unset" if found is None else found if isinstance(found, str) else value


def value_text(found: GroupRecord, value: float) -> str:
    """Return a value of a group's metric: 91.2 %, or 0.639 where it is no share."""
    return text.percent(value, 2) if found.percent else f"{value:.4f}".replace("-", text.MINUS)


def difference_text(found: GroupRecord, value: float) -> str:
    """Return a difference of a group's metric: +0.31 points, or +0.0031 where it is no share."""
    return text.points(value, 2) if found.percent else f"{value:+.4f}".replace("-", text.MINUS)


def change_cell(found: GroupRecord, row: RowRecord) -> Cell:
    """Return the change from the teacher with the spread over seeds."""
    seeds = text.plural(len(row.seeds), "seed")
    if row.change_sd is None:
        return Cell(difference_text(found, row.change), (seeds,))
    spread = f"{row.change_sd * 100:.2f}" if found.percent else f"{row.change_sd:.4f}"
    return Cell(difference_text(found, row.change), (f"± {spread} over {seeds}",))


def _time_cell(row: RowRecord) -> Cell:
    parts = [f"{PARTS[part]} {text.seconds(spent)}" for part, spent in row.seconds.items() if spent]
    return Cell(f"{text.seconds(sum(row.seconds.values()))}, {', '.join(row.devices)}", tuple(parts))


def paired_cell(found: GroupRecord, row: RowRecord, foot: Footnotes) -> Cell:
    """Return the comparison with RMT-KD, and in words who is ahead."""
    if row.paired is None:
        own = row.method == DEFAULT_METHOD and not row.differs
        return Cell("–") if own else foot.cell(row.why_not_paired)
    other = "the reference" if row.method == DEFAULT_METHOD else text.method_name(DEFAULT_METHOD)
    lines = [f"95 %: {interval_text(found, row.paired)}", verdict(row.paired, other)]
    if row.paired.seeds < len(row.seeds):
        lines.append(f"{row.paired.seeds} of {len(row.seeds)} seeds keep outputs")
    if row.paired.mcnemar_p is not None:
        lines.append(f"McNemar p {p_text(row.paired.mcnemar_p)}")
    tone = ("bad" if row.paired.difference > 0 else "good") if row.paired.clear else ""
    return Cell(difference_text(found, row.paired.difference), tuple(lines), tone)


def interval_text(found: GroupRecord, compared: PairedRecord) -> str:
    """Return the interval: −0.6 to +1.2."""
    scale, decimals = (100, 2) if found.percent else (1, 4)
    ends = (f"{scale * end + 0.0:+.{decimals}f}".replace("-", text.MINUS) for end in (compared.low, compared.high))
    return " to ".join(ends)


def verdict(compared: PairedRecord, other: str) -> str:
    """Return whether the other side is ahead or behind, where the interval says so."""
    if not compared.clear:
        return "no clear difference"
    return f"{other} is {'behind' if compared.difference > 0 else 'ahead'}"


def p_text(p: float) -> str:
    """Return a p value with its sign: = 0.032, or < 0.001."""
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def attribution(groups: Sequence[GroupRecord]) -> TableBlock | None:
    """Return what one changed key of RMT-KD's recipe makes of it, a row a value; None where no run has one."""
    foot = Footnotes()
    rows: list[Row] = []
    for found in groups:
        rows += [group(group_title(found))] if found.ablations else []
        for row in found.ablations:
            ((key, (mine, other)),) = row.differs.items()
            head = (Cell(key), Cell(plain(mine)), Cell(plain(other)), Cell(text.percent(row.reduction)))
            rows.append(Row((*head, change_cell(found, row), paired_cell(found, row, foot))))
    if not rows:
        return None
    columns = ("Key", "Set to", "Reference", "Removed", "Change from the teacher", "Minus the reference")
    caption = "RMT-KD with one key of its recipe changed; spread and interval as in Table I."
    return TableBlock(caption, columns, tuple(rows), frozenset({1, 2}), foot.notes())


def quantile_table(curves: Sequence[CurveRecord], percent: bool) -> TableBlock:
    """Return the points of an ablation of the quantile."""
    rows: list[Row] = []
    for curve in curves:
        rows.append(group(curve.rule))
        for point in curve.points:
            at = "no quantile" if point.quantile is None else f"{point.quantile:g}"
            value = text.percent(point.value, 2) if percent else f"{point.value:.4f}"
            rows.append(text_row(at, text.percent(point.reduction), value, text.count(point.seeds)))
    columns = ("Quantile", "Removed", "Metric", "Seeds")
    return TableBlock("The points of the figure.", columns, tuple(rows), label="The figures in a table")


def paper_table() -> list[Block]:
    """Return the paper's Table I, marked as the paper's."""
    rows: list[Row] = []
    for name in dict.fromkeys(row[0] for row in published.TABLE):
        rows.append(group(name))
        rows += [
            text_row(method, f"{reduction:.1f}{text.NBSP}%", text.points(change / 100))
            for model, method, reduction, change in published.TABLE
            if model == name
        ]
    note = f"These figures are the paper's, copied from {published.SOURCE}. None was measured here."
    caption = "As printed in the paper: parameters removed and change of accuracy; other teachers, data and training."
    columns = ("Method", "Removed (paper)", "Change of accuracy (paper)")
    return [NoteBlock(note, tone="warn"), TableBlock(caption, columns, tuple(rows))]
