"""Several runs side by side; figures of different tasks, models or machines are listed, never averaged."""

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
from rmtkd_edge.report.records import Compression, Exported, Missing, Profile, RunFacts
from rmtkd_edge.report.summary import BASELINE, Model, accuracy_of, gain_of, headline_load, interval_of, models, size_of
from rmtkd_edge.report.trade import trade_picture
from rmtkd_edge.report.verdict import best


def comparison_section(runs: Sequence[RunFacts]) -> Section:
    """Return one table of all runs, grouped by task, and accuracy against parameters for each task."""
    blocks: list[Block] = [NoteBlock(_caution(runs)), comparison_table(runs)]
    profiles = list(dict.fromkeys(p.name for run in runs for p in run.profiles if not p.agreement))
    blocks += [speed_table(runs, name) for name in profiles]
    for task in _tasks(runs):
        items = [
            (r.name, r.compression, r.exported if isinstance(r.exported, Exported) else None)
            for r in runs
            if isinstance(r.compression, Compression) and _task(r) == task
        ]
        drawn = trade_picture(items) if len(items) > 1 else None
        if drawn:
            blocks.append(PictureBlock(drawn, f"all-{slug(task)}"))
    return Section("comparison", "All runs", tuple(blocks))


def _caution(runs: Sequence[RunFacts]) -> str:
    words = "Each row is one run; nothing is averaged over models, tasks or machines."
    if _several_tasks(runs):
        words += " Accuracies of different tasks cannot be compared with each other."
    return words


def _task(run: RunFacts) -> str:
    return run.compression.task if isinstance(run.compression, Compression) else ""


def _tasks(runs: Sequence[RunFacts]) -> list[str]:
    return list(dict.fromkeys(_task(run) for run in runs))


def _several_tasks(runs: Sequence[RunFacts]) -> bool:
    return len([task for task in _tasks(runs) if task]) > 1


def comparison_table(runs: Sequence[RunFacts]) -> TableBlock:
    """Return reduction, accuracy and disk of each run's shipping variant."""
    foot = Footnotes()
    rows: list[Row] = []
    for task in _tasks(runs):
        rows.append(group(f"Task {task}" if task else "Task unknown"))
        rows += [_run_row(run, foot) for run in runs if _task(run) == task]
    columns = (
        "Run",
        "Seed",
        "Teacher",
        "Student",
        "Variant",
        "Original",
        "Accuracy",
        "Disk",
        "Stop rule",
    )
    caption = f"The variant that ships from each run, against {BASELINE} of the same run: parameters, accuracy, disk."
    return TableBlock(caption, columns, tuple(rows), frozenset({4, 8}), foot.notes())


def _run_row(run: RunFacts, foot: Footnotes) -> Row:
    c, chosen, original = run.compression, best(run), models(run)[0]
    if isinstance(c, Missing):
        return Row(
            (
                Cell(run.name),
                Cell(str(run.seed)),
                foot.cell(f"{c.why}; run: {c.command}"),
                *(Cell("") for _ in range(6)),
            )
        )
    before, after = c.teacher_parameters, c.student_parameters
    less = (text.percent(after.value / before.value - 1),) if before.value and after.value is not None else ()
    return Row(
        (
            Cell(run.name),
            Cell(str(run.seed)),
            foot.cell(before.why) if before.value is None else Cell(text.count(before.value)),
            foot.cell(after.why) if after.value is None else Cell(text.count(after.value), less),
            Cell(chosen.label if chosen else "none exported"),
            _accuracy_cell(original, None, foot),
            _accuracy_cell(chosen, original, foot) if chosen else foot.cell(_why_none(run)),
            _disk_cell(chosen, original, foot) if chosen else foot.cell(_why_none(run)),
            Cell(c.stop.replace("_", " ") if c.stop else "not finished"),
        )
    )


def _why_none(run: RunFacts) -> str:
    return (
        f"{run.exported.why}; run: {run.exported.command}"
        if isinstance(run.exported, Missing)
        else "every variant was refused"
    )


def _accuracy_cell(model: Model, original: Model | None, foot: Footnotes) -> Cell:
    found = accuracy_of(model)
    if found.value is None:
        return foot.cell(found.why)
    interval = interval_of(model)
    sub = [text.share_interval(*interval)] if interval else []
    before = accuracy_of(original).value if original else None
    if before is not None:
        sub.append(text.points(found.value - before))
    return Cell(text.percent(found.value), tuple(sub))


def _disk_cell(model: Model, original: Model, foot: Footnotes) -> Cell:
    found, before = size_of(model), size_of(original).value
    if found.value is None:
        return foot.cell(found.why)
    return Cell(
        text.megabytes(found.value),
        (text.gain(before / found.value, "smaller", "larger"),) if before and found.value else (),
    )


def speed_table(runs: Sequence[RunFacts], name: str) -> TableBlock:
    """Return p50 latency of every run that was profiled under one profile name, with the processor that ran it."""
    foot = Footnotes()
    rows = []
    for run in runs:
        profile = next((p for p in run.profiles if p.name == name), None)
        chosen = best(run)
        if profile is None:
            rows.append(
                Row(
                    (
                        Cell(run.name),
                        foot.cell(
                            f"not profiled; run: rmtkd-edge profile {shlex.quote(run.name)} --on {shlex.quote(name)}"
                        ),
                        *(Cell("") for _ in range(4)),
                    )
                )
            )
        elif chosen is not None:
            rows.append(_speed_row(run, profile, chosen, foot))
    columns = ("Run", "Original p50", "Variant p50", "Gain", "Load", "Machine")
    caption = f"Latency of the shipping variant on {name}; times of different machines cannot be compared."
    return TableBlock(caption, columns, tuple(rows), frozenset({4, 5}), foot.notes())


def _speed_row(run: RunFacts, profile: Profile, chosen: Model, foot: Footnotes) -> Row:
    load = headline_load(profile)
    machine = "; ".join(dict.fromkeys(str(r.env.get("cpu_model") or "processor not recorded") for r in profile.results))
    cells = []
    for label in (BASELINE, chosen.label):
        result = profile.find(label, load) if load else None
        p50 = result.latency["p50"] if result else None
        if p50 is None or p50.value is None:
            cells.append(foot.cell(p50.why if p50 else f"{label} was not run"))
        else:
            doubt = "" if result is None or result.clean else str(result.quality.get("verdict") or "no verdict")
            cells.append(Cell(text.milliseconds(p50.value), (doubt,) if doubt else (), "warn" if doubt else ""))
    gain = gain_of(profile, chosen.label, load) if load else None
    interval = (text.gain_interval(*gain[1]),) if gain and gain[1] else ()
    shown = (
        Cell(text.gain(gain[0], "faster", "slower"), interval) if gain else foot.cell("one of the two was not timed")
    )
    return Row((Cell(run.name), *cells, shown, Cell(str(load) if load else ""), Cell(machine)))
