"""Several runs next to each other; figures of different tasks, models or machines are listed, never averaged."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import (
    Block,
    Cell,
    Footnotes,
    NoteBlock,
    PictureBlock,
    Row,
    Section,
    TableBlock,
    group,
    slug,
)
from rmtkd_edge.report.records import Compression, Missing, Profile, RunFacts
from rmtkd_edge.report.summary import (
    BASELINE,
    Model,
    gain_of,
    headline_workload,
    median_latency,
    metric_of,
    models,
    score_cell,
)
from rmtkd_edge.report.trade import Path, trade_picture
from rmtkd_edge.report.verdict import best
from rmtkd_edge.run.records.export import ExportRecord


def runs_section(runs: Sequence[RunFacts]) -> Section:
    """Return one table of all runs, grouped by task, and the metric against parameters for each task."""
    blocks: list[Block] = [NoteBlock(_caution(runs)), runs_table(runs)]
    blocks += [speed_table(runs, name) for name in dict.fromkeys(p.name for run in runs for p in run.timed)]
    for task in _tasks(runs):
        mine = [run for run in runs if _task(run) == task]
        items = [
            Path(run.name, run.compression, run.exported if isinstance(run.exported, ExportRecord) else None)
            for run in mine
            if isinstance(run.compression, Compression)
        ]
        drawn = trade_picture(items, metric_of(mine[0])) if len(items) > 1 else None
        if drawn:
            blocks.append(PictureBlock(drawn, f"all-{slug(task)}"))
    return Section("comparison", "All runs", tuple(blocks))


def _caution(runs: Sequence[RunFacts]) -> str:
    said = "Each row is one run; nothing is averaged over models, tasks or machines."
    if len([task for task in _tasks(runs) if task]) > 1:
        said += " Figures of different tasks cannot be compared with each other."
    return said


def _task(run: RunFacts) -> str:
    return run.compression.task if isinstance(run.compression, Compression) else ""


def _tasks(runs: Sequence[RunFacts]) -> list[str]:
    return list(dict.fromkeys(_task(run) for run in runs))


def runs_table(runs: Sequence[RunFacts]) -> TableBlock:
    """Return reduction, metric and disk of the file that ships from each run."""
    foot = Footnotes()
    rows: list[Row] = []
    for task in _tasks(runs):
        mine = [run for run in runs if _task(run) == task]
        metrics = ", ".join(dict.fromkeys(metric_of(run) for run in mine if isinstance(run.compression, Compression)))
        rows.append(group(f"Task {task}: {metrics}" if task else "Task unknown"))
        rows += [_run_row(run, foot) for run in mine]
    columns = ("Run", "Method", "Seed", "Teacher", "Student", "File", "Original", "Compressed", "Disk", "Stop rule")
    caption = f"The file that ships from each run, against {BASELINE} of the same run: parameters, metric, disk."
    return TableBlock(caption, columns, tuple(rows), frozenset({1, 5, 9}), foot.notes())


def _run_row(run: RunFacts, foot: Footnotes) -> Row:
    c, chosen, original = run.compression, best(run), models(run)[0]
    head = Cell(run.name), Cell(text.method_name(run.method)), Cell(str(run.seed))
    if isinstance(c, Missing):
        return Row((head[0], Cell(""), head[2], foot.cell(f"{c.why}; run: {c.command}"), *(Cell("") for _ in range(6))))
    cells = (
        *head,
        Cell(text.count(c.teacher.parameters)),
        _student_cell(c, foot),
        Cell(chosen.label if chosen else "none exported"),
        _scored(original, None, foot),
        _scored(chosen, original, foot) if chosen else foot.cell(_why_none(run)),
        _disk_cell(chosen, original, foot) if chosen else foot.cell(_why_none(run)),
        Cell(c.stop or "not finished"),
    )
    return Row(cells)


def _student_cell(c: Compression, foot: Footnotes) -> Cell:
    if c.student is None:
        return foot.cell("no cycle was accepted yet")
    less = text.percent(c.student.parameters / c.teacher.parameters - 1)
    return Cell(text.count(c.student.parameters), (less,))


def _why_none(run: RunFacts) -> str:
    gap = run.exported
    return f"{gap.why}; run: {gap.command}" if isinstance(gap, Missing) else "every file was refused"


def _scored(model: Model, original: Model | None, foot: Footnotes) -> Cell:
    if model.scores is None:
        return foot.cell(model.why)
    cell = score_cell(model.scores, original.scores if original else None)
    return Cell(cell.text, (*cell.sub, f"on {model.scores.split}"))


def _disk_cell(model: Model, original: Model, foot: Footnotes) -> Cell:
    found, before = model.size_bytes, original.size_bytes.value
    if found.value is None:
        return foot.cell(found.why)
    gain = text.gain(before / found.value, "smaller", "larger") if before and found.value else ""
    return Cell(text.megabytes(found.value), (gain,) if gain else ())


def speed_table(runs: Sequence[RunFacts], name: str) -> TableBlock:
    """Return p50 latency of every run that was profiled under one profile name, with the processor that ran it."""
    foot = Footnotes()
    rows = []
    for run in runs:
        profile = next((p for p in run.profiles if p.name == name), None)
        chosen = best(run)
        if profile is None:
            command = f"rmtkd-edge profile {shlex.quote(run.name)} --on {shlex.quote(name)}"
            gap = foot.cell(f"not profiled; run: {command}")
            rows.append(Row((Cell(run.name), gap, *(Cell("") for _ in range(4)))))
        elif chosen is not None:
            rows.append(_speed_row(run, profile, chosen, foot))
    columns = ("Run", "Original p50", "File p50", "Gain", "Workload", "Machine")
    caption = f"Latency of the file that ships on {name}; times of different machines cannot be compared."
    return TableBlock(caption, columns, tuple(rows), frozenset({4, 5}), foot.notes())


def _speed_row(run: RunFacts, profile: Profile, chosen: Model, foot: Footnotes) -> Row:
    workload = headline_workload(profile)
    machine = "; ".join(dict.fromkeys(str(r.env.get("cpu_model") or "processor not recorded") for r in profile.results))
    cells = []
    for label in (BASELINE, chosen.label):
        result = profile.find(label, workload) if workload else None
        if result is None:
            cells.append(foot.cell(f"{label} was not run"))
            continue
        cell = foot.figure(median_latency(result), text.milliseconds)
        cells.append(cell if result.clean else Cell(cell.text, (result.verdict,), "warn", cell.mark))
    gain = gain_of(profile, chosen.label, workload) if workload else None
    if gain:
        interval = (text.gain_interval(*gain[1]),) if gain[1] else ()
        shown = Cell(text.gain(gain[0], "faster", "slower"), interval)
    else:
        shown = foot.cell("one of the two was not timed")
    return Row((Cell(run.name), *cells, shown, Cell(str(workload) if workload else ""), Cell(machine)))
