"""The section on operators: where the time of a call goes, and what is left to gain on the machine that said so."""

from __future__ import annotations

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, Cell, Footnotes, NoteBlock, Row, Section, TableBlock, missing
from rmtkd_edge.report.records import Missing, Quantity, RunFacts, quantity
from rmtkd_edge.run.records.explain import ExplainedFile, ExplainRecord, OperatorRecord, RooflineRecord

FIRST = ("Operator", "Nodes", "ms", "Share", "Operations", "Per second", "Of the peak")
COLUMNS = (*FIRST, "Bytes", "Per second", "Roofline ms", "To gain ms")
TOO_SHORT = "it took less than the profiler's microsecond"


def operators_section(run: RunFacts, prefix: str) -> Section | None:
    """Return a table for every file, None where `export --explain` was not asked for."""
    record = run.explained
    if record is None:
        return None
    title, anchor = "Time by operator", f"{prefix}operators"
    if isinstance(record, Missing):
        return Section(anchor, title, (missing(record),))
    blocks: list[Block] = [NoteBlock(conditions(record))]
    blocks += [operator_table(file, record.roofline, folded=number > 0) for number, file in enumerate(record.files)]
    return Section(anchor, title, tuple(blocks))


def conditions(record: ExplainRecord) -> str:
    """Return how it was measured, and the machine's rates that the tables refer to."""
    env, roofline = record.env, record.roofline
    machine = f"{env.get('cpu_model') or 'a processor of unknown name'}, onnxruntime {env.get('onnxruntime')}"
    peaks = [f"{kind} products at {_rate(roofline.flops_per_s(kind) or 0)}" for kind in roofline.gemm]
    slow, fast = (text.number(rate / 1e9, 3) for rate in roofline.copy_range)
    return (
        f"One call ({record.workload}) on {text.plural(record.threads, 'thread')} of {machine}, by onnxruntime's "
        f"profiler. The machine's peak, measured in turn: {', '.join(peaks)}; copies at {slow} (the largest) "
        f"to {fast} GB/s (the smallest). The roofline is the least time that operations and bytes need at these rates, "
        "node by node the longer of the two; at most the rest is left to gain. A multiply-accumulate counts as "
        "two operations, and products alone are counted: of other operators the bytes alone bound the time."
    )


def operator_table(file: ExplainedFile, roofline: RooflineRecord, folded: bool) -> TableBlock:
    """Return the operators of a file, the slowest first, and their sum."""
    foot = Footnotes()
    rows = [_row(operator, roofline, foot) for operator in file.operators]
    sums = (
        Cell("All"),
        Cell(text.count(sum(operator.nodes for operator in file.operators))),
        Cell(text.number(file.operators_ms)),
        *[Cell("–")] * 6,
        *(Cell("–" if ms is None else text.number(ms)) for ms in (file.roofline_ms, file.gain_ms)),
    )
    caption = (
        f"{file.label}: {text.milliseconds(file.latency_ms)} a call, {text.milliseconds(file.profiled_ms)} while the "
        f"profiler ran ({_overhead(file)}); its operators take {text.milliseconds(file.operators_ms)} of that. "
        f"Verdict: {file.verdict}."
    )
    label = f"Operators of {file.label}" if folded else ""
    return TableBlock(caption, COLUMNS, (*rows, Row(sums)), notes=foot.notes(), label=label)


def _row(operator: OperatorRecord, roofline: RooflineRecord, foot: Footnotes) -> Row:
    moved, least = quantity(operator, "bytes_moved"), quantity(operator, "roofline_ms")
    moving = Quantity(operator.bytes_per_s, moved.why or TOO_SHORT)
    cells = (
        Cell(operator.operator),
        Cell(text.count(operator.nodes)),
        Cell(text.number(operator.time_ms)),
        Cell(text.percent(operator.share)),
        *_product(operator, roofline, foot),
        foot.figure(moved, text.megabytes),
        foot.figure(moving, lambda value: f"{text.number(value / 1e9, 3)}{text.NBSP}GB/s"),
        foot.figure(least, text.number),
        foot.figure(Quantity(operator.gain_ms, least.why), text.number),
    )
    return Row(cells)


def _product(operator: OperatorRecord, roofline: RooflineRecord, foot: Footnotes) -> tuple[Cell, ...]:
    """Return the operations of a product, their rate and its share of the peak; dashes for what is no product."""
    if not operator.arithmetic and operator.roofline_ms is not None:
        return (Cell("–"),) * 3
    flops, peak = quantity(operator, "flops"), roofline.flops_per_s(operator.arithmetic)
    rate = Quantity(operator.flops_per_s, flops.why or TOO_SHORT)
    share = Quantity(None, rate.why)
    if rate.value is not None:
        share = Quantity(rate.value / peak) if peak else Quantity(None, operator.roofline_ms_why)
    return (
        foot.figure(flops, text.short_count),
        foot.figure(rate, _rate),
        foot.figure(share, lambda value: text.percent(value, 0)),
    )


def _rate(value: float) -> str:
    return f"{text.number(value / 1e9, 3)}{text.NBSP}Gop/s"


def _overhead(file: ExplainedFile) -> str:
    said = f"{100 * file.overhead:+.1f}{text.NBSP}%"
    if file.overhead_ci95 is None:
        return said
    low, high = file.overhead_ci95
    return f"{said}, 95{text.NBSP}% interval {100 * low:+.1f} to {100 * high:+.1f}"
