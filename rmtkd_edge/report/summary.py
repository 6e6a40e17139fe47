"""The summary table: original and compressed model in every precision, next to each other, with what each gained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Cell, Footnotes, Row, TableBlock, group, not_measured
from rmtkd_edge.report.figures import heaviest
from rmtkd_edge.report.records import (
    Compression,
    Missing,
    Profile,
    Quantity,
    RunFacts,
    energy_source,
    quantity,
    single_stream,
)
from rmtkd_edge.run import layout
from rmtkd_edge.run.records.export import ExportRecord, VariantRecord
from rmtkd_edge.run.records.profile import MeasurementRecord, WorkloadRecord
from rmtkd_edge.run.records.scores import Scores

BASELINE = layout.label("baseline", "fp32")
MAIN_WORKLOADS = 4
Interval = tuple[float, float]


@dataclass(frozen=True)
class Model:
    """A model in a precision, with what the export knows of it.

    Attributes:
        student: of a size family, the name of a student on the way.
    """

    label: str
    role: str
    exported: ExportRecord | Missing | None
    variant: VariantRecord | None
    student: str = ""

    @property
    def scores(self) -> Scores | None:
        """What the ONNX file scores on the split that is reported."""
        return self.variant.reported if self.variant else None

    @property
    def size_bytes(self) -> Quantity:
        """Bytes of the ONNX file, or why there are none."""
        return quantity(self.variant, "size_bytes") if self.variant else Quantity(None, self.why)

    @property
    def parameters(self) -> Quantity:
        """Parameters of the exported model, or why they are unknown."""
        known = isinstance(self.exported, ExportRecord)
        return quantity(self.exported, "parameters") if known else Quantity(None, self.why)

    @property
    def why(self) -> str:
        """Why there is no file."""
        if isinstance(self.exported, Missing):
            return f"{self.exported.why}; run: {self.exported.command}"
        return "the export holds no such file" if self.exported else "profiled only, not exported by this run"


def models(run: RunFacts) -> tuple[Model, ...]:
    """Return the files of the run (on request ones where they were made), then other models that were profiled."""
    found = []
    students = [("candidate", name, exported) for name, exported in run.larger.items()]
    for role, student, exported in (("baseline", "", run.baseline), *students, ("candidate", "", run.exported)):
        variants = {} if isinstance(exported, Missing) else exported.variants
        for name, precision in layout.PRECISIONS.items():
            if name in variants or not precision.on_request:
                label = layout.label(role, name, run.method, student)
                found.append(Model(label, role, exported, variants.get(name), student))
    known = {model.label for model in found}
    others = {r.label: r.role for p in run.profiles for r in p.results if r.label not in known}
    return (*found, *(Model(label, role, None, None) for label, role in others.items()))


def metric_of(run: RunFacts) -> str:
    """Return the name of the primary metric in words."""
    if isinstance(run.compression, Compression):
        return text.metric_name(run.compression.teacher.validation.primary)
    return text.metric_name(run.exported.metric) if isinstance(run.exported, ExportRecord) else "quality"


def headline_workload(profile: Profile) -> WorkloadRecord | None:
    """Return the workload that headlines quote: single stream, the smallest batch, its longest sequence."""
    found = [w for w in profile.workloads if single_stream(w)] or list(profile.workloads)
    return min(found, key=lambda w: (w.batch, -(w.seq or 0)), default=None)


def gain_of(profile: Profile, label: str, workload: WorkloadRecord) -> tuple[float, Interval | None] | None:
    """Return how many times faster than the baseline a model is under a workload, and the 95 % interval if known.

    The interleaved comparison where the profile holds one (it records candidate / baseline, turned over here); else the
    ratio of the two p50, without an interval. None where either was not timed.
    """
    candidate, baseline = profile.find(label, workload), profile.find(BASELINE, workload)
    if candidate is None or baseline is None or label == BASELINE:
        return None
    for c in profile.record.comparisons:
        same = (c.candidate, c.baseline, c.workload.key) == (label, BASELINE, workload.key)
        if same and c.metric.startswith("latency") and c.ratio:
            return 1 / c.ratio, (1 / c.ci95[1], 1 / c.ci95[0]) if c.ci95 and c.ci95[0] else None
    fast, slow = candidate.latency.p50, baseline.latency.p50
    return (slow / fast, None) if fast and slow else None


def summary_table(run: RunFacts) -> TableBlock:
    """Return the summary: one column a file, one row a figure, one group a device; of a family its last student."""
    columns = [model for model in models(run) if not model.student]
    foot = Footnotes()
    rows = [group("Model"), _score_row(run, columns, foot), _parameter_row(columns, foot), _disk_row(columns, foot)]
    for profile in run.timed:
        rows.append(group(f"On {profile.name}"))
        rows += _profile_rows(profile, columns, foot)
    caption = f"Every file against {BASELINE}. Intervals are 95 %."
    names = ("", *(m.label for m in columns), "Source")
    return TableBlock(caption, names, tuple(rows), frozenset({len(names) - 1}), foot.notes())


def _row(
    name: str, cells: Sequence[Cell | Quantity], source: str, foot: Footnotes, workload: WorkloadRecord | None = None
) -> Row:
    """Return a row; figures that are missing share one wide cell where they share one reason."""
    head = Cell(name, (str(workload),) if workload else ())
    gaps = [c for c in cells if isinstance(c, Quantity)]
    if len(gaps) == len(cells) and len({g.why for g in gaps}) == 1:
        return Row((head, Cell(not_measured(gaps[0]), tone="missing", span=len(cells)), Cell(source)))
    filled = [foot.cell(c.why) if isinstance(c, Quantity) else c for c in cells]
    return Row((head, *filled, Cell(source)))


def _score_row(run: RunFacts, columns: Sequence[Model], foot: Footnotes) -> Row:
    reference = columns[0].scores
    cells: list[Cell | Quantity] = []
    for model in columns:
        if model.variant is None or model.scores is None:
            cells.append(Quantity(None, model.why))
            continue
        shown = score_cell(model.scores, None if model.label == BASELINE else reference)
        if model.variant.refused:
            mark = foot.mark(f"refused: {model.variant.refused}")
            shown = Cell(shown.text, (*shown.sub, "refused"), "bad", mark)
        cells.append(shown)
    found = {(m.scores.split, m.scores.rows) for m in columns if m.scores}
    rows = ", ".join(f"{text.count(n)} {split} rows" for split, n in sorted(found))
    return _row(text.title(metric_of(run)), cells, f"ONNX file, {rows}" if rows else "ONNX file", foot)


def score_cell(scores: Scores, reference: Scores | None) -> Cell:
    """Return the primary metric with its interval, and its distance from a reference."""
    sub = [text.score_interval(scores, *scores.interval)] if scores.interval else []
    sub += [text.change(scores, reference)] if reference else []
    return Cell(text.score(scores), tuple(sub))


def _parameter_row(columns: Sequence[Model], foot: Footnotes) -> Row:
    reference = columns[0].parameters.value
    cells: list[Cell | Quantity] = []
    for model in columns:
        value = model.parameters.value
        if value is None:
            cells.append(model.parameters)
            continue
        less = (text.percent(value / reference - 1),) if reference and model.role == "candidate" else ()
        cells.append(Cell(text.count(value), less))
    return _row("Parameters", cells, "counted", foot)


def _disk_row(columns: Sequence[Model], foot: Footnotes) -> Row:
    cells = _gain_cells([m.size_bytes for m in columns], text.megabytes, ("smaller", "larger"))
    return _row("Disk", cells, "bytes of the ONNX file", foot)


def _gain_cells(
    quantities: Sequence[Quantity], write: Callable[[float], str], senses: tuple[str, str]
) -> list[Cell | Quantity]:
    """Return cells with the gain against the first column; only figures of the same source are compared."""
    first = quantities[0]
    cells: list[Cell | Quantity] = []
    for index, found in enumerate(quantities):
        if found.value is None:
            cells.append(found)
            continue
        comparable = index > 0 and first.value and found.value > 0 and first.source == found.source
        sub = (text.gain((first.value or 0) / found.value, *senses),) if comparable else ()
        cells.append(Cell(write(found.value), sub))
    return cells


def _profile_rows(profile: Profile, columns: Sequence[Model], foot: Footnotes) -> list[Row]:
    rows = [_latency_row(profile, columns, workload, foot) for workload in profile.workloads[:MAIN_WORKLOADS]]
    heavy = heaviest(profile)
    if heavy is not None:
        found = [_take(profile, m.label, heavy, peak_memory) for m in columns]
        cells = _gain_cells(found, text.megabytes, ("less", "more"))
        rows.append(_row("Peak memory", cells, _sources(found), foot, heavy))
    workload = headline_workload(profile)
    if workload is not None:
        found = [_take(profile, m.label, workload, gross_energy) for m in columns]
        cells = _gain_cells(found, text.joules, ("less", "more"))
        rows.append(_row("Energy, gross", cells, _sources(found), foot, workload))
        found = [_take(profile, m.label, workload, cold_start) for m in columns]
        cells = _gain_cells(found, text.milliseconds, ("faster", "slower"))
        rows.append(_row("Cold start", cells, _sources(found), foot, workload))
    return rows


def peak_memory(result: MeasurementRecord) -> Quantity:
    """Return the peak memory in bytes."""
    return quantity(result.memory, "peak_rss_bytes", result.memory.method)


def cold_start(result: MeasurementRecord) -> Quantity:
    """Return the ms from the start of a process to its first output."""
    return quantity(result, "cold_start_ms", result.cold_start.method)


def gross_energy(result: MeasurementRecord) -> Quantity:
    """Return the energy of an inference in J, idle power included."""
    return quantity(result.energy, "j_per_inf_gross", energy_source(result))


def median_latency(result: MeasurementRecord) -> Quantity:
    """Return the median latency in ms."""
    return quantity(result.latency, "p50")


def _take(
    profile: Profile, label: str, workload: WorkloadRecord, get: Callable[[MeasurementRecord], Quantity]
) -> Quantity:
    result = profile.find(label, workload)
    return get(result) if result else Quantity(None, f"{label} was not run on {profile.name} under this workload")


def _sources(found: Sequence[Quantity]) -> str:
    return "; ".join(sorted({q.source for q in found if q.source}))


def _latency_row(profile: Profile, columns: Sequence[Model], workload: WorkloadRecord, foot: Footnotes) -> Row:
    cells: list[Cell | Quantity] = []
    for model in columns:
        found = _take(profile, model.label, workload, median_latency)
        result, gain = profile.find(model.label, workload), gain_of(profile, model.label, workload)
        if found.value is None or result is None:
            cells.append(found)
            continue
        sub = [text.gain(gain[0], "faster", "slower")] if gain else []
        sub += [text.gain_interval(*gain[1])] if gain and gain[1] else []
        cell = Cell(text.milliseconds(found.value), tuple(sub))
        cells.append(cell if result.clean else _doubted(cell, result, foot))
    counts = sorted({r.latency.n for r in profile.results if r.workload.key == workload.key})
    runs = text.plural(counts[0], "run") if len(counts) == 1 else f"{text.count(counts[0])} to {counts[-1]:,} runs"
    return _row("Latency p50", cells, f"{runs}, interleaved", foot, workload)


def _doubted(cell: Cell, result: MeasurementRecord, foot: Footnotes) -> Cell:
    reasons = "; ".join(map(str, result.quality.get("reasons") or ())) or "the machine was not quiet while it was timed"
    mark = foot.mark(f"{result.verdict}: {reasons}")
    return Cell(cell.text, (*cell.sub, result.verdict), "warn", mark)
