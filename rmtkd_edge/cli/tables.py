"""Results as tables for a terminal; a figure that is not there is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rmtkd_edge.run import layout
from rmtkd_edge.run.records.profile import EnergyRecord, MeasurementRecord, ProfileRecord, WorkloadRecord

if TYPE_CHECKING:
    from rmtkd_edge.config.hardware import HardwareProfile
    from rmtkd_edge.profile.across_sessions import SessionComparison
    from rmtkd_edge.run.records.compress import CompressRecord, StudentRecord
    from rmtkd_edge.run.records.export import ExportRecord, VariantRecord
    from rmtkd_edge.run.records.scores import Scores
    from rmtkd_edge.run.records.teacher import TeacherRecord


def table_of(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """Return a table of plain texts (no markup is read from them); columns of numbers after the first go right."""
    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    for place, name in enumerate(header):
        numbers = [row[place] for row in cells if row[place] not in ("", "-")]
        right = place > 0 and bool(numbers) and all(text[:1].isdigit() for text in numbers)
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*[Text(cell) for cell in row])
    return table


def figure(value: float | None, form: str, scale: float = 1.0) -> str:
    """Return a formatted figure, or a dash for None."""
    return "-" if value is None else format(value * scale, form)


def reported(validation: Scores, test: Scores | None) -> Scores:
    """Return the scores that a headline quotes: those on test where there is a test split, else on validation."""
    return validation if test is None else test


def score_text(teacher: TeacherRecord, student: StudentRecord) -> str:
    """Return the primary metric of teacher and student in words, with the split that it is from."""
    before, after = (reported(model.validation, model.test) for model in (teacher, student))
    return f"{after.primary} {before.value:.4f} -> {after.value:.4f} on {after.split}"


def variants_table(exported: Mapping[str, ExportRecord]) -> Table:
    """Return the table of the files that an export wrote or refused, by their folders."""
    first, *_ = exported.values()
    split = "test" if any(variant.test is not None for variant in first.variants.values()) else "validation"
    rows = [
        _variant_row(name, f"{folder}/" if len(exported) > 1 else "", variant)
        for folder, record in exported.items()
        for name, variant in record.variants.items()
    ]
    return table_of(["variant", "file", "MB", f"{first.metric}, {split}"], rows)


def _variant_row(name: str, folder: str, variant: VariantRecord) -> list[str]:
    if variant.refused:
        return [name, f"{folder} refused: {variant.refused}".strip(), "-", "-"]
    score = variant.reported.value if variant.reported else None
    return [name, folder + variant.file, figure(variant.size_bytes, ".2f", 1e-6), figure(score, ".4f")]


def profile_tables(documents: Sequence[ProfileRecord]) -> list[Table]:
    """Return one table of all measured devices, and one of each that was emulated."""
    measured = [d for d in documents if not d.emulated]
    return [*([profile_table(*measured)] if measured else []), *(profile_table(d) for d in documents if d.emulated)]


def profile_table(*documents: ProfileRecord) -> Table:
    """Return one table of the results of one profile, or of several, each row then with its device.

    Of an emulated device it says how far outputs agree, and no times.
    """
    only = documents[0] if len(documents) == 1 else None
    if only is not None and only.emulated:
        from rmtkd_edge.run.records.profile import agreement_rows

        header, *rows = agreement_rows(only.results)
        return table_of(header, rows, f"{only.profile}: largest differences from the outputs on this machine")
    names = ["model", "batch", "tokens", "p50 ms", "p90 ms", "per s", "RSS MB", "disk MB", "mJ", "verdict"]
    if only is not None:
        return table_of(names, [_result_row(item) for item in only.results], only.profile)
    rows = [[document.profile, *_result_row(item)] for document in documents for item in document.results]
    return table_of(["device", *names], rows)


def _result_row(item: MeasurementRecord) -> list[Any]:
    return [
        item.label,
        item.workload.batch,
        item.workload.seq or "-",
        figure(item.latency.p50, ".2f"),
        figure(item.latency.p90, ".2f"),
        figure(item.throughput_per_s, ".1f"),
        figure(item.memory.peak_rss_bytes, ".0f", 1e-6),
        figure(item.model.disk_bytes, ".1f", 1e-6),
        energy_cell(item.energy),
        item.verdict,
    ]


def energy_cell(energy: EnergyRecord) -> str:
    """Return millijoules per inference with their provenance, net of idle where that is known."""
    for kind, joules in (("net", energy.j_per_inf_net), ("gross", energy.j_per_inf_gross)):
        if joules is not None:
            return f"{joules * 1e3:.1f} ({energy.kind}, {kind})"
    return "-"


def workload_text(workload: WorkloadRecord) -> str:
    """Return a workload in words."""
    return f"batch {workload.batch}" + ("" if workload.seq is None else f", {workload.seq} tokens")


def comparison_lines(record: ProfileRecord, name: bool = False) -> list[str]:
    """Return one line a comparison of a candidate with the original: how many times as fast, with its interval.

    Args:
        name: begin every line with the device.
    """
    lines = []
    original = layout.ROLES["baseline"].name
    for pair in record.comparisons:
        if pair.metric != "latency_ms" or not pair.baseline.startswith(original):
            continue
        interval = f" ({pair.why or 'no interval'})"
        if pair.ci95 is not None:
            interval = f", 95 % interval {1 / pair.ci95[1]:.2f} to {1 / pair.ci95[0]:.2f}"
        lines.append(
            f"{pair.candidate} is {1 / pair.ratio:.2f} times as fast as {pair.baseline}"
            f" ({workload_text(pair.workload)}{interval})"
        )
    lines += [note for note in record.notes if " is refused " in note or " does not fit " in note]
    return [f"{record.profile}: {line}" for line in lines] if name else lines


def session_table(comparisons: Sequence[SessionComparison]) -> Table:
    """Return the table of two measurements next to each other; ratios are the second file over the first."""
    rows = []
    for c in comparisons:
        ends = c.latency_ci95
        interval = "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        row = [c.label, c.workload, *(f"{ms:.3f}" for ms in c.latency_ms), f"{c.latency_ratio:.3f}", interval]
        row += [figure(ratio, ".3f") for ratio in (c.memory_ratio, c.disk_ratio, c.energy_ratio)]
        rows.append([*row, "same" if c.same_file else "other", " / ".join(c.verdicts)])
    header = ["model", "workload", "a ms", "b ms", "b / a", "95 % interval"]
    return table_of([*header, "RSS", "disk", "energy", "file", "verdicts"], rows)


def session_lines(comparisons: Sequence[SessionComparison]) -> list[str]:
    """Return what a reader must know before the ratios are believed."""
    lines = ["two sessions, not interleaved: a difference of some per cent may be the machine's"]
    differences = dict.fromkeys(text for c in comparisons for text in c.differences)
    if differences:
        lines.append("not the same in both: " + "; ".join(differences))
    if any(verdict != "clean" for c in comparisons for verdict in c.verdicts):
        lines.append("not every result is clean: see the verdicts")
    unclear = [f"{c.label} {c.workload}" for c in comparisons if not c.clear]
    if unclear:
        lines.append("no clear difference in latency: " + ", ".join(unclear))
    return lines


def summary_table(
    compression: CompressRecord, baseline: ExportRecord, exported: ExportRecord, measured: ProfileRecord
) -> Table:
    """Return a run's last table: the original against the compressed model, at the first workload that was measured."""
    first = measured.results[0].workload if measured.results else WorkloadRecord(1)
    found = {(item.role, item.model.precision): item for item in measured.results if item.workload == first}
    sides = (("baseline", baseline, compression.teacher), ("candidate", exported, compression.student))
    rows = []
    for role, record, model in sides:
        for precision, variant in record.variants.items():
            item = found.get((role, precision))
            score = variant.reported.value if variant.reported else None
            rows.append(
                [
                    layout.label(role, precision, compression.method),
                    f"{model.parameters:,}",
                    "-" if variant.refused else figure(variant.size_bytes, ".1f", 1e-6),
                    "refused" if variant.refused else figure(score, ".4f"),
                    "-" if item is None else figure(item.latency.p50, ".2f"),
                    "-" if item is None else item.verdict,
                ]
            )
    split = reported(compression.student.validation, compression.student.test)
    header = ["model", "parameters", "disk MB", f"{exported.metric}, {split.split}", f"p50 ms ({workload_text(first)})"]
    return table_of([*header, "verdict"], rows, compression.title or None)


def calibration_table(profile: HardwareProfile) -> Table:
    """Return the curves of a calibrated profile: the multiples tried, and the mean latency that each leads to."""
    from rmtkd_edge.profile.calibrate import MULTIPLES, mean_latency

    found = profile.calibration
    assert found is not None, "the profile was just calibrated"
    rows = [
        [str(multiple), *(f"{mean_latency(curve, multiple):.3f}" for curve in (found.conv, found.gemm))]
        for multiple in MULTIPLES
    ]
    return table_of(["widths rounded up to", "convolutions ms", "products ms"], rows)
