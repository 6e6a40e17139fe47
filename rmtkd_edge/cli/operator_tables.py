"""What `export --explain` found, as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.cli.output import say, show, show_json
from rmtkd_edge.cli.tables import figure, table_of, workload_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from rmtkd_edge.run.records.explain import ExplainedFile, ExplainRecord, OperatorRecord, RooflineRecord

HEADER = ("operator", "nodes", "ms", "share", "Mop", "MB", "Gop/s", "of peak", "GB/s", "roofline ms", "to gain ms")


def show_operators(record: ExplainRecord, as_json: bool) -> None:
    """Print a record as tables, or as JSON."""
    if as_json:
        show_json(record)
        return
    for table in operator_tables(record):
        show(table)
    say(*roofline_lines(record), *record.notes)


def operator_tables(record: ExplainRecord) -> Iterator[Table]:
    """Yield a table for every file."""
    for file in record.files:
        rows = [_row(operator, record.roofline) for operator in file.operators]
        whole = ["all", sum(o.nodes for o in file.operators), figure(file.operators_ms, ".3f"), *["-"] * 6]
        whole += [figure(file.roofline_ms, ".3f"), figure(file.gain_ms, ".3f")]
        yield table_of(HEADER, [*rows, whole], title(file, record))


def title(file: ExplainedFile, record: ExplainRecord) -> str:
    """Return what a file took with and without the profiler."""
    interval = "" if file.overhead_ci95 is None else f", 95 % interval {_percent(*file.overhead_ci95)}"
    threads = f"{record.threads} thread" + ("s" if record.threads > 1 else "")
    return (
        f"{file.label}: {file.latency_ms:.3f} ms a call ({workload_text(record.workload)}, {threads}); "
        f"with the profiler {_percent(file.overhead)}{interval}; {file.verdict}"
    )


def roofline_lines(record: ExplainRecord) -> list[str]:
    """Return the machine's rates, and what the table leaves out."""
    roofline = record.roofline
    peaks = [f"{kind} products {figure(roofline.flops_per_s(kind), '.1f', 1e-9)} Gop/s" for kind in roofline.gemm]
    copies = " to ".join(f"{rate / 1e9:.1f}" for rate in roofline.copy_range)
    return [
        f"measured on this machine: {', '.join(peaks)}, copies {copies} GB/s (the larger, the slower)",
        "operations of products alone are counted; of the others the bytes alone bound the time",
    ]


def _row(operator: OperatorRecord, roofline: RooflineRecord) -> list[str]:
    peak = roofline.flops_per_s(operator.arithmetic)
    reached = None if peak is None or operator.flops_per_s is None else operator.flops_per_s / peak
    return [
        operator.operator,
        str(operator.nodes),
        figure(operator.time_ms, ".3f"),
        f"{operator.share:.1%}",
        figure(operator.flops, ".2f", 1e-6),
        figure(operator.bytes_moved, ".2f", 1e-6),
        figure(operator.flops_per_s, ".1f", 1e-9),
        figure(reached, ".0%"),
        figure(operator.bytes_per_s, ".1f", 1e-9),
        figure(operator.roofline_ms, ".3f"),
        figure(operator.gain_ms, ".3f"),
    ]


def _percent(*shares: float) -> str:
    return " to ".join(f"{100 * share:+.1f}" for share in shares) + " %"
