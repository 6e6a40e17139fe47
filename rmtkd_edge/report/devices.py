"""Sections on devices: latency, memory, energy, comparisons."""

from __future__ import annotations

from collections.abc import Callable

from rmtkd_edge.config.hardware import Session
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
    missing,
    slug,
    text_row,
)
from rmtkd_edge.report.figures import energy_picture, latency_picture, size_picture
from rmtkd_edge.report.records import Profile, Quantity, RunFacts, energy_source, quantity
from rmtkd_edge.report.summary import gross_energy, models
from rmtkd_edge.run.records.profile import LatencyRecord, MeasurementRecord, ProfileRecord, agreement_rows
from rmtkd_edge.run.records.tuning import SessionRecord

PERCENTILE_NEEDS = {"p90": 100, "p95": 100, "p99": 1000}  # samples


def devices_section(run: RunFacts, prefix: str) -> Section:
    """Return disk and memory, then one section for each device."""
    drawn = size_picture([(m.label, m.role, m.size_bytes) for m in models(run) if m.variant], run.timed)
    blocks: list[Block] = [PictureBlock(drawn, prefix.rstrip("-"))] if drawn else []
    if run.no_profile:
        blocks.append(missing(run.no_profile))
    below = tuple(device_section(profile, prefix) for profile in run.profiles)
    return Section(f"{prefix}devices", "Speed, memory and energy", tuple(blocks), below)


def device_section(profile: Profile, prefix: str) -> Section:
    """Return the figures and tables of one device."""
    own = f"{prefix}{slug(profile.name)}"
    blocks: list[Block] = [NoteBlock(f"{'. '.join(conditions(profile))}.")]
    if profile.record.emulated:
        return Section(f"{own}-device", f"On {profile.name}", (*blocks, agreement_table(profile)))
    latency, energy = latency_picture(profile), energy_picture(profile)
    blocks += [PictureBlock(p, own) for p in (latency, energy) if p]
    if energy is None:
        blocks.append(NoteBlock(f"Energy on {profile.name} is {_no_energy(profile)}.", tone="missing"))
    blocks.append(latency_table(profile))
    blocks += [comparison_table(profile)] if profile.record.comparisons else []
    blocks.append(resource_table(profile))
    return Section(f"{own}-device", f"On {profile.name}", tuple(blocks))


def conditions(profile: Profile) -> list[str]:
    """Return what the figures depend on: device, inputs, effort, notes, comparability."""
    record = profile.record
    found = [record.title, f"Inputs: {record.inputs}" if record.inputs else "", *record.notes]
    if record.quick:
        found.append("Quick effort: fewer runs and shorter windows than a full profile")
    found.append(_session(record))
    if not record.comparable:
        found.append("Figures under this name are not comparable between two machines")
    return [text.title(said) for said in found if said]


def _session(record: ProfileRecord) -> str:
    """Return the session settings where they are not onnxruntime's own, or were tuned; else nothing."""
    hardware = record.hardware
    tuning, session = hardware.get("tuning"), hardware.get("session")
    if session is None or not record.results or (tuning is None and session == Session().model_dump()):
        return ""
    by = f" by profile --tune, of {tuning['model']}, {tuning['workload']}" if tuning else ""
    env = record.results[0].env  # the profile may leave the threads to the machine
    return f"Session settings{by}: {SessionRecord(env['threads'], env['spinning'], **session)}"


def agreement_table(profile: Profile) -> TableBlock:
    """Return how far the outputs on an emulated device are from those on the host."""
    header, *rows = agreement_rows(profile.results)
    caption = f"Outputs on {profile.name} against the host's: largest differences, relative to the largest magnitude."
    return TableBlock(caption, tuple(map(text.title, header)), tuple(text_row(*row) for row in rows))


def _no_energy(profile: Profile) -> str:
    reasons = []
    for r in profile.results:
        why = f"{r.energy.kind} ({r.energy.meter}), see the table"
        reasons.append(gross_energy(r).why if r.energy.j_per_inf_gross is None else why)
    return "not measured: " + ("; ".join(dict.fromkeys(reasons)) or "nothing was run")


def by_workload(profile: Profile, make: Callable[[MeasurementRecord], Row]) -> tuple[Row, ...]:
    """Return a row for every result, grouped by workload."""
    rows = []
    for workload in profile.workloads:
        rows.append(group(text.title(str(workload))))
        found = (profile.find(label, workload) for label in profile.labels)
        rows += [make(result) for result in found if result is not None]
    return tuple(rows)


def verdict_cell(r: MeasurementRecord) -> Cell:
    """Return what a measurement says of itself."""
    return Cell(r.verdict, tone="good" if r.clean else "warn")


def latency_table(profile: Profile) -> TableBlock:
    """Return latency percentiles per workload and model."""
    foot = Footnotes()
    keys = ("p50", "p90", "p95", "p99", "mean", "stdev")

    def row(r: MeasurementRecord) -> Row:
        cells = (
            Cell(r.label),
            *(foot.figure(_percentile(r.latency, key), text.number) for key in keys),
            foot.figure(quantity(r, "throughput_per_s"), text.number),
            Cell(text.count(r.latency.n)),
            Cell(text.count(r.latency.warmup)),
            Cell(text.number(r.latency.duration_s)),
            verdict_cell(r),
        )
        return Row(cells)

    heads = ("Model", *keys[:4], "Mean", "Std. dev.", "Per second", "Runs", "Warm-up", "Seconds", "Verdict")
    rows = by_workload(profile, row)
    caption = f"Latency on {profile.name} in milliseconds."
    return TableBlock(caption, heads, rows, frozenset({11}), foot.notes(), label="Latency: every percentile")


def _percentile(latency: LatencyRecord, key: str) -> Quantity:
    # The same words for every row, so that they become one footnote; the number of runs is in the table.
    needs = PERCENTILE_NEEDS.get(key, 0)
    found = quantity(latency, key)
    return Quantity(None, f"{key} needs {needs:,} samples") if found.value is None and latency.n < needs else found


def resource_table(profile: Profile) -> TableBlock:
    """Return memory, start-up, processor time and energy; one shared meter is named once."""
    foot = Footnotes()
    sources = {_meter(r) for r in profile.results}
    shared = len(sources) == 1 and not any(_meanwhile(r) for r in profile.results)

    def row(r: MeasurementRecord) -> Row:
        cells = (
            Cell(r.label),
            foot.figure(quantity(r.memory, "peak_rss_bytes"), text.megabytes),
            foot.figure(quantity(r.memory, "rss_after_load_bytes"), text.megabytes),
            Cell(text.count(r.model.disk_bytes)),
            foot.figure(quantity(r, "cold_start_ms"), text.milliseconds),
            foot.figure(quantity(r, "cpu_s_per_inf"), text.number),
            foot.figure(gross_energy(r), text.joules),
            foot.figure(quantity(r.energy, "j_per_inf_net"), text.joules),
            Cell("not recorded" if r.energy.idle_w is None else f"{text.number(r.energy.idle_w)}{text.NBSP}W"),
            Cell(f"{text.number(r.energy.window_s)}{text.NBSP}s"),
        )
        return Row(cells if shared else (*cells, Cell(_meter(r), _meanwhile(r))))

    heads = ["Model", "Peak memory", "After load", "Disk, bytes", "Cold start", "CPU s", "Energy gross", "Energy net"]
    heads += ["Idle", "Window"] + ([] if shared else ["Energy source"])
    caption = f"Resources on {profile.name}; CPU time and energy per inference; memory by "
    caption += ", ".join(sorted({r.memory.method for r in profile.results}))
    caption += f"; energy {sources.pop()}" if shared else ""
    rows, label = by_workload(profile, row), "Memory, start-up, CPU time, energy"
    return TableBlock(f"{caption}.", tuple(heads), rows, frozenset({10}), foot.notes(), label)


def _meter(r: MeasurementRecord) -> str:
    source = energy_source(r)
    return source if r.energy.kind == "unavailable" else f"{source}, scope {r.energy.scope}"


def _meanwhile(r: MeasurementRecord) -> tuple[str, ...]:
    """Return what other meters read meanwhile, and why meters were skipped where one of them measured."""
    found = [
        f"{name} {text.joules(value)}" for name, value in (r.energy.other_meters or {}).items() if value is not None
    ]
    if r.energy.kind != "unavailable" and r.energy.skipped:
        found.append(f"skipped {', '.join(r.energy.skipped)}")
    return tuple(found)


def comparison_table(profile: Profile) -> TableBlock:
    """Return the interleaved comparisons as the profile recorded them."""
    foot = Footnotes()
    rows = []
    for c in profile.record.comparisons:
        ends = f"{text.number(c.ci95[0])} to {text.number(c.ci95[1])}" if c.ci95 else ""
        interval = Cell(ends) if ends else foot.cell(c.why or "no interval recorded")
        names = (c.candidate, c.baseline, c.metric.replace("_", " "), str(c.workload), text.number(c.ratio))
        rows.append(Row((*map(Cell, names), interval, Cell(text.count(c.n)))))
    columns = ("Model", "Against", "Figure", "Workload", "Ratio", "95 % interval", "n")
    caption = f"Interleaved comparisons on {profile.name}: model divided by what it is compared with, below 1 is less."
    label = "Interleaved comparisons"
    return TableBlock(caption, columns, tuple(rows), frozenset({1, 2, 3}), foot.notes(), label)
