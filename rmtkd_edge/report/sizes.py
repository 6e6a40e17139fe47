"""The section on size against quality: every file of a run, and of runs it is held against, with the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, Cell, Footnotes, NoteBlock, PictureBlock, Row, Section, TableBlock
from rmtkd_edge.report.front_figure import Costs, front_picture
from rmtkd_edge.report.pareto import Point, dominating
from rmtkd_edge.report.records import Compression, Missing, Profile, RunFacts, reported
from rmtkd_edge.report.summary import Model, headline_workload, median_latency, metric_of, models, score_cell

CAUTION = (
    "A file is on the front where no other one is as good at less cost. Differences smaller than the intervals may be "
    "chance, and whoever picks a file by these rows reads its figure a little too high."
)


@dataclass(frozen=True)
class Shown:
    """A file of the table, numbered and named as the report names it."""

    name: str
    run: int
    model: Model
    number: int = 0


def sizes_section(run: RunFacts, others: Sequence[RunFacts], prefix: str) -> Section | None:
    """Return the section, or None where there is nothing to hold against anything.

    Runs of other test rows, another task or metric are not drawn; a note says why.
    """
    blocks: list[Block] = []
    shown = list(_files(run, 0, ""))
    for number, other in enumerate(others, 1):
        if why := incomparable(run, other):
            blocks.append(NoteBlock(f"{other.name} is not drawn: {why}.", tone="warn"))
            continue
        known = {item.model.variant.sha256 for item in shown if item.model.variant}
        new = (item for item in _files(other, number, f"{other.name}: "))
        shown += [item for item in new if item.model.variant and item.model.variant.sha256 not in known]
    if len(shown) > 1:
        shown = [replace(item, number=number) for number, item in enumerate(shown, 1)]
        panels = _panels(run, shown)
        drawn = PictureBlock(front_picture(panels, metric_of(run)), prefix.rstrip("-"))
        blocks = [NoteBlock(CAUTION), drawn, sizes_table(run, shown, panels), *blocks]
    return Section(f"{prefix}sizes", "Size against quality", tuple(blocks)) if blocks else None


def _files(run: RunFacts, number: int, before: str) -> Iterator[Shown]:
    """Yield the files that ship and were scored, with the name of their run before them."""
    for model in models(run):
        if model.variant and not model.variant.refused and model.scores:
            yield Shown(before + model.label, number, model)


def incomparable(run: RunFacts, other: RunFacts) -> str:
    """Return why the figures of two runs must not be compared, empty where they may be."""
    if isinstance(other.exported, Missing):
        return f"{other.exported.why}; run: {other.exported.command}"
    ours, theirs = run.compression, other.compression
    if not isinstance(ours, Compression) or not isinstance(theirs, Compression):
        return "it has no finished compression"
    before, after = reported(ours.teacher), reported(theirs.teacher)
    if (ours.task, metric_of(run)) != (theirs.task, metric_of(other)):
        return f"its task is {theirs.task or 'unknown'} by {metric_of(other)}, not {ours.task} by {metric_of(run)}"
    if before.split != after.split:
        return f"its figures are of {after.split}, not of {before.split}"
    mine, its = _digest(run, before.split), _digest(other, before.split)
    if mine is None or mine != its:
        return f"its {before.split} rows are others" if mine and its else f"its {before.split} rows are not recorded"
    return ""


def _digest(run: RunFacts, split: str) -> str | None:
    rows = run.stages.get("compress", {}).get("rows")
    found = rows.get(split) if isinstance(rows, dict) else None
    return found if isinstance(found, str) else None


def _panels(run: RunFacts, shown: Sequence[Shown]) -> list[Costs]:
    """Return what the files cost on disk, and on every device that timed at least two of them."""
    panels = [Costs("Size of the ONNX file", "MB", tuple(_point(item, _megabytes(item)) for item in shown))]
    for profile in run.timed:
        timed = [point for item in shown if (point := _timed(profile, item)) is not None]
        if len(timed) > 1:
            title, unit = f"Latency on {profile.name}", f"p50 in ms, {headline_workload(profile)}"
            panels.append(Costs(title, unit, tuple(timed)))
    return panels


def _point(item: Shown, cost: float, doubt: str = "") -> Point:
    assert item.model.scores is not None, "only scored files are shown"
    precision = item.model.label.split()[-1]
    return Point(item.number, item.name, item.model.role, precision, cost, item.model.scores, item.run, doubt)


def _megabytes(item: Shown) -> float:
    return (item.model.size_bytes.value or 0.0) / 1e6


def _timed(profile: Profile, item: Shown) -> Point | None:
    """Return a file at its median latency in ms; None for files of other runs, which ran in another session."""
    workload = headline_workload(profile)
    result = profile.find(item.model.label, workload) if workload and item.run == 0 else None
    ms = None if result is None else median_latency(result).value
    if result is None or ms is None:
        return None
    return _point(item, ms, "" if result.clean else result.verdict)


def sizes_table(run: RunFacts, shown: Sequence[Shown], panels: Sequence[Costs]) -> TableBlock:
    """Return one row a file: what it costs, what it scores, and what is better at no more cost."""
    foot = Footnotes()
    rows = [_row(item, panels, foot) for item in shown]
    timed = [name for panel in panels[1:] for name in (panel.title, "Front, latency")]
    columns = ("File", "Parameters", "Disk", text.title(metric_of(run)), "Front, size", *timed)
    where = ", ".join(dict.fromkeys(f"{text.count(s.rows)} {s.split} rows" for i in shown if (s := i.model.scores)))
    fronts = frozenset({4, *range(6, len(columns), 2)})
    caption = f"Every file that ships, scored on {where}."
    return TableBlock(caption, columns, tuple(rows), fronts, foot.notes())


def _row(item: Shown, panels: Sequence[Costs], foot: Footnotes) -> Row:
    model, scores = item.model, item.model.scores
    assert scores is not None, "only scored files are shown"
    cells = [
        Cell(f"{item.number}. {item.name}"),
        foot.figure(model.parameters, text.count),
        foot.figure(model.size_bytes, text.megabytes),
        score_cell(scores, None),
        _place(item, panels[0]),
    ]
    for panel in panels[1:]:
        point = panel.find(item.name)
        cells.append(_latency_cell(point) if point else foot.cell("it did not run in this session"))
        cells.append(_place(item, panel))
    return Row(tuple(cells))


def _latency_cell(point: Point) -> Cell:
    shown = text.milliseconds(point.cost)
    return Cell(shown, (point.doubt,), "warn") if point.doubt else Cell(shown)


def _place(item: Shown, panel: Costs) -> Cell:
    point = panel.find(item.name)
    if point is None:
        return Cell("–")
    better = dominating(point, panel.points)
    return Cell("on the front", tone="good") if better is None else Cell("dominated", (f"by {better.name}",))
