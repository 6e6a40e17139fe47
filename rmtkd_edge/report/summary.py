"""The summary table: original and compressed model, fp32 and int8, side by side with what each gained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Cell, Footnotes, Row, TableBlock, group, not_measured
from rmtkd_edge.report.figures import heaviest
from rmtkd_edge.report.records import (
    Exported,
    Load,
    Measurement,
    Missing,
    Profile,
    Quantity,
    RunFacts,
    Variant,
)
from rmtkd_edge.report.stats import accuracy_interval

BASELINE = "original fp32"
KNOWN = {
    "original fp32": "baseline",
    "original fp16": "baseline",
    "original int8": "baseline",
    "rmt-kd fp32": "candidate",
    "rmt-kd fp16": "candidate",
    "rmt-kd int8": "candidate",
}
ON_REQUEST = ("fp16",)  # no column where it was not asked for
MAIN_LOADS = 4


@dataclass(frozen=True)
class Model:
    """One column: a model variant with what the export knows of it."""

    label: str
    role: str
    exported: Exported | Missing | None
    variant: Variant | None


def models(run: RunFacts) -> tuple[Model, ...]:
    """Return the variants of the run (fp16 where it was made), then any other model that was profiled against them."""
    found = []
    for label, role in KNOWN.items():
        exported = run.exported if role == "candidate" else run.baseline
        precision = label.split()[1]
        if precision in ON_REQUEST and not (isinstance(exported, Exported) and precision in exported.variants):
            continue
        found.append(
            Model(label, role, exported, exported.variants.get(precision) if isinstance(exported, Exported) else None)
        )
    others = {r.label: r.role for p in run.profiles for r in p.results if r.label not in KNOWN}
    return (*found, *(Model(label, role, None, None) for label, role in others.items()))


def accuracy_of(model: Model) -> Quantity:
    """Return the accuracy of the ONNX file, or why there is none."""
    return model.variant.accuracy if model.variant else Quantity(None, _no_file(model))


def size_of(model: Model) -> Quantity:
    """Return the bytes of the ONNX file, or why there are none."""
    return model.variant.size_bytes if model.variant else Quantity(None, _no_file(model))


def parameters_of(model: Model) -> Quantity:
    """Return the parameters of the exported model, or why they are unknown."""
    return model.exported.parameters if isinstance(model.exported, Exported) else Quantity(None, _no_file(model))


def _no_file(model: Model) -> str:
    if isinstance(model.exported, Missing):
        return f"{model.exported.why}; run: {model.exported.command}"
    return "the export holds no such file" if model.exported else "profiled only, not exported by this run"


def interval_of(model: Model) -> tuple[float, float] | None:
    """Return the 95 % Wilson interval of a model's accuracy, or None."""
    variant = model.variant
    if variant is None or variant.accuracy.value is None or not variant.n.value:
        return None
    return accuracy_interval(variant.accuracy.value, int(variant.n.value))


def main_loads(profile: Profile) -> tuple[Load, ...]:
    """Return the loads that the summary shows: single stream ones first, four at most."""
    return profile.loads[:MAIN_LOADS]


def headline_load(profile: Profile) -> Load | None:
    """Return the load that headlines quote: single stream, the smallest batch, its longest sequence."""
    loads = [load for load in profile.loads if load.scenario in ("", "single_stream")] or list(profile.loads)
    return min(loads, key=lambda load: (load.batch, -(load.seq or 0)), default=None)


def gain_of(profile: Profile, label: str, load: Load) -> tuple[float, tuple[float, float] | None] | None:
    """Return how many times faster than the baseline a model is under a load, and the 95 % interval if known.

    The interleaved comparison where the profile holds one (it records candidate / baseline, turned over here); else the
    ratio of the two p50, without an interval. None where either was not timed.
    """
    candidate, baseline = profile.find(label, load), profile.find(BASELINE, load)
    if candidate is None or baseline is None or label == BASELINE:
        return None
    for c in profile.comparisons:
        same = c.candidate == label and c.baseline == BASELINE and c.metric.startswith("latency") and c.load == load
        if same and c.ratio.value:
            return 1 / c.ratio.value, (1 / c.high, 1 / c.low) if c.low and c.high else None
    fast, slow = candidate.latency["p50"].value, baseline.latency["p50"].value
    return (slow / fast, None) if fast and slow else None


def summary_table(run: RunFacts) -> TableBlock:
    """Return the summary: one column a variant, one row a figure, one group a device."""
    columns = models(run)
    foot = Footnotes()
    rows = [group("Model"), _accuracy_row(columns, foot), _parameter_row(columns, foot), _disk_row(columns, foot)]
    for profile in (p for p in run.profiles if not p.agreement):
        rows.append(group(f"On {profile.name}"))
        rows += _profile_rows(profile, columns, foot)
    caption = f"Every variant against {BASELINE}. Intervals are 95 %."
    names = ("", *(m.label for m in columns), "Source")
    return TableBlock(caption, names, tuple(rows), frozenset({len(names) - 1}), foot.notes())


def _row(name: str, cells: Sequence[Cell | Quantity], source: str, foot: Footnotes, load: Load | None = None) -> Row:
    """Return a row; figures that are missing share one wide cell where they share one reason."""
    head = Cell(name, (str(load),) if load else ())
    gaps = [c for c in cells if isinstance(c, Quantity)]
    if len(gaps) == len(cells) and len({g.why for g in gaps}) == 1:
        return Row((head, Cell(not_measured(gaps[0]), tone="missing", span=len(cells)), Cell(source)))
    filled = [foot.cell(c.why) if isinstance(c, Quantity) else c for c in cells]
    return Row((head, *filled, Cell(source)))


def _accuracy_row(columns: Sequence[Model], foot: Footnotes) -> Row:
    reference = accuracy_of(columns[0]).value
    rows = sorted({int(m.variant.n.value) for m in columns if m.variant and m.variant.n.value})
    cells: list[Cell | Quantity] = []
    for model in columns:
        value, interval = accuracy_of(model).value, interval_of(model)
        if value is None:
            cells.append(accuracy_of(model))
            continue
        sub = [text.share_interval(*interval)] if interval else []
        if reference is not None and model.label != BASELINE:
            sub.append(text.points(value - reference))
        refused = bool(model.variant and model.variant.refused)
        mark = foot.mark(f"refused: {model.variant.refused}") if refused and model.variant else ""
        cells.append(
            Cell(text.percent(value), tuple(sub + (["refused"] if refused else [])), "bad" if refused else "", mark)
        )
    where = (
        f"ONNX file, {', '.join(text.count(n) for n in rows)} validation rows, Wilson interval" if rows else "ONNX file"
    )
    return _row("Accuracy", cells, where, foot)


def _parameter_row(columns: Sequence[Model], foot: Footnotes) -> Row:
    reference = parameters_of(columns[0]).value
    cells: list[Cell | Quantity] = []
    for model in columns:
        value = parameters_of(model).value
        if value is None:
            cells.append(parameters_of(model))
            continue
        less = (text.percent(value / reference - 1),) if reference and model.role == "candidate" else ()
        cells.append(Cell(text.count(value), less))
    return _row("Parameters", cells, "counted", foot)


def _disk_row(columns: Sequence[Model], foot: Footnotes) -> Row:
    quantities = [size_of(m) for m in columns]
    cells = _gain_cells(quantities, text.megabytes, ("smaller", "larger"))
    return _row("Disk", cells, "bytes of the ONNX file", foot)


def _gain_cells(
    quantities: Sequence[Quantity], write: Callable[[float], str], senses: tuple[str, str]
) -> list[Cell | Quantity]:
    """Return cells with the gain against the first column; only figures of the same source are compared."""
    first = quantities[0]
    cells: list[Cell | Quantity] = []
    for index, quantity in enumerate(quantities):
        if quantity.value is None:
            cells.append(quantity)
            continue
        comparable = index > 0 and first.value and quantity.value > 0 and first.source == quantity.source
        sub = (text.gain((first.value or 0) / quantity.value, *senses),) if comparable else ()
        cells.append(Cell(write(quantity.value), sub))
    return cells


def _profile_rows(profile: Profile, columns: Sequence[Model], foot: Footnotes) -> list[Row]:
    rows = [_latency_row(profile, columns, load, foot) for load in main_loads(profile)]
    heavy = heaviest(profile)
    if heavy is not None:
        found = [_take(profile, m.label, heavy, lambda r: r.peak_rss_bytes) for m in columns]
        cells = _gain_cells(found, text.megabytes, ("less", "more"))
        rows.append(_row("Peak memory", cells, _sources(found), foot, heavy))
    load = headline_load(profile)
    if load is not None:
        found = [_take(profile, m.label, load, lambda r: r.energy_gross_j) for m in columns]
        rows.append(
            _row("Energy, gross", _gain_cells(found, text.joules, ("less", "more")), _sources(found), foot, load)
        )
    return rows


def _take(profile: Profile, label: str, load: Load, get: Callable[[Measurement], Quantity]) -> Quantity:
    result = profile.find(label, load)
    return get(result) if result else Quantity(None, f"{label} was not run on {profile.name} under this load")


def _sources(found: Sequence[Quantity]) -> str:
    return "; ".join(sorted({q.source for q in found if q.source}))


def why_not_clean(result: Measurement) -> str:
    """Return the recorded reasons for a verdict other than clean."""
    reasons = result.quality.get("reasons")
    words = [str(r) for r in reasons] if isinstance(reasons, list) else []
    return "; ".join(words) or "the machine was not quiet while this was timed"


def _latency_row(profile: Profile, columns: Sequence[Model], load: Load, foot: Footnotes) -> Row:
    cells: list[Cell | Quantity] = []
    for model in columns:
        quantity = _take(profile, model.label, load, lambda r: r.latency["p50"])
        result, gain = profile.find(model.label, load), gain_of(profile, model.label, load)
        if quantity.value is None or result is None:
            cells.append(quantity)
            continue
        sub = [text.gain(gain[0], "faster", "slower")] if gain else []
        if gain and gain[1]:
            sub.append(text.gain_interval(*gain[1]))
        doubt = "" if result.clean else str(result.quality.get("verdict") or "no verdict")
        mark = foot.mark(f"{doubt}: {why_not_clean(result)}") if doubt else ""
        cells.append(
            Cell(
                text.milliseconds(quantity.value),
                tuple(sub + ([doubt] if doubt else [])),
                "warn" if doubt else "",
                mark,
            )
        )
    counts = sorted({int(r.latency_n.value) for r in profile.results if r.load == load and r.latency_n.value})
    runs = (
        f"{text.count(counts[0])} to {text.count(counts[-1])} runs"
        if len(counts) > 1
        else "".join(text.plural(n, "run") for n in counts)
    )
    return _row("Latency p50", cells, f"{runs}, interleaved" if runs else "", foot, load)
