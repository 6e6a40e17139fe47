"""Disk, memory and energy of exported files (Fig. 4), and the table of what int8 and graphs cost and gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Cell, Footnotes, Row, TableBlock, group
from rmtkd_edge.report.drawing import Picture
from rmtkd_edge.report.figures import Bar, Panel, bars_picture
from rmtkd_edge.report.paper.record import FileRecord

NOT_PROFILED = "this file was not profiled; run: rmtkd-edge profile RUN --on PROFILE"
NO_ENERGY = "no meter read energy while it was profiled; run: rmtkd-edge profile RUN --on PROFILE where one is"
INT8 = (
    "Difference of the metric on the reported rows from the same model's fp32 file; no interval, since outputs of "
    "exported files are not kept."
)


def resource_picture(run: str, files: Sequence[FileRecord]) -> Picture:
    """Return bars of disk, memory and energy of the files of one run on at most one device."""
    device = next((f.device for f in files if f.device), "")
    panels = [_panel("On disk (ONNX file)", "MB", files, lambda f: f.disk_bytes / 1e6, 1e6, text.megabytes)]
    memory = [f for f in files if f.memory_bytes is not None]
    if memory:
        panels.append(
            _panel(f"Peak memory, {device}", "MB", memory, lambda f: (f.memory_bytes or 0) / 1e6, 1e6, text.megabytes)
        )
    energy = [f for f in files if f.joules is not None]
    if energy:
        panels.append(
            _panel(f"Energy, {device}", "mJ per inference", energy, lambda f: (f.joules or 0) * 1e3, 1e-3, text.joules)
        )
    caption = f"What the files of {run} take on disk, in memory and of energy."
    caption += "" if energy else " No meter read their energy."
    return bars_picture("resources", "Disk, memory and energy", caption, panels)


def _panel(
    title: str,
    unit: str,
    files: Sequence[FileRecord],
    get: Callable[[FileRecord], float],
    scale: float,
    write: Callable[[float], str],
) -> Panel:
    bars = (Bar(f.label, _role(f), get(f), write(get(f) * scale)) for f in files)
    return Panel(title, unit, tuple(bars))


def _role(file: FileRecord) -> str:
    return "baseline" if file.label.startswith("original") else "candidate"


def files_table(files: Sequence[FileRecord]) -> TableBlock:
    """Return one row a file and device: graph, precision, disk, metric, latency, memory, energy."""
    foot = Footnotes()
    rows: list[Row] = []
    for run in dict.fromkeys(file.run for file in files):
        rows.append(group(run))
        rows += [_row(file, foot) for file in files if file.run == run]
    columns = (
        "File",
        "Graph",
        "Disk",
        "Metric",
        f"From fp32 ({foot.mark(INT8)})",
        "Device",
        "Latency p50",
        "Memory",
        "Energy",
    )
    caption = "Exported files, and where they were profiled their cost under the workload that headlines quote."
    return TableBlock(caption, columns, tuple(rows), frozenset({1, 5}), foot.notes())


def _row(file: FileRecord, foot: Footnotes) -> Row:
    value = Cell(_value(file, file.value)) if file.value is not None else foot.cell("nobody had labelled rows")
    if file.change is None:
        change = "–"
    else:
        change = text.points(file.change, 2) if file.percent else f"{file.change:+.4f}".replace("-", text.MINUS)
    head = (Cell(file.label), Cell(file.graph), Cell(text.megabytes(file.disk_bytes)), value, Cell(change))
    if not file.device:
        return Row((*head, *(foot.cell(NOT_PROFILED) for _ in range(4))))
    gain = (text.gain(file.speedup, "faster", "slower"),) if file.speedup else ()
    cells = (
        Cell(file.device, (file.workload,)),
        foot.cell("too few runs") if file.p50_ms is None else Cell(text.milliseconds(file.p50_ms), gain),
        foot.cell("it was not read") if file.memory_bytes is None else Cell(text.megabytes(file.memory_bytes)),
        foot.cell(NO_ENERGY) if file.joules is None else Cell(text.joules(file.joules)),
    )
    return Row((*head, *cells))


def _value(file: FileRecord, value: float) -> str:
    return text.percent(value, 2) if file.percent else f"{value:.4f}".replace("-", text.MINUS)
