"""Sections on devices: latency, memory, energy, comparisons, and how far the measurement is to be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

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
    words,
)
from rmtkd_edge.report.figures import energy_picture, latency_picture, size_picture
from rmtkd_edge.report.records import Measurement, Profile, Quantity, RunFacts
from rmtkd_edge.report.summary import models, size_of


def devices_section(run: RunFacts, prefix: str) -> Section:
    """Return disk and memory, then one section for each device."""
    disk = [(m.label, m.role, size_of(m)) for m in models(run) if m.variant]
    drawn = size_picture(disk, run.profiles)
    blocks: list[Block] = [PictureBlock(drawn, prefix.rstrip("-"))] if drawn else []
    if run.no_profile:
        blocks.append(missing(run.no_profile))
    below = tuple(device_section(profile, prefix) for profile in run.profiles)
    return Section(f"{prefix}devices", "Speed, memory and energy", tuple(blocks), below)


def device_section(profile: Profile, prefix: str) -> Section:
    """Return the figures and tables of one device."""
    own = f"{prefix}{slug(profile.name)}"
    said = [NoteBlock(f"{'. '.join(profile.conditions)}.")] if profile.conditions else []
    if profile.agreement:
        return Section(f"{own}-device", f"On {profile.name}", (*said, agreement_table(profile)))
    latency, energy = latency_picture(profile), energy_picture(profile)
    blocks: list[Block] = [*said, *(PictureBlock(p, own) for p in (latency, energy) if p)]
    if energy is None:
        blocks.append(NoteBlock(f"Energy on {profile.name} is {_no_energy(profile)}.", tone="missing"))
    blocks.append(latency_table(profile))
    blocks += [comparison_table(profile)] if profile.comparisons else []
    blocks.append(resource_table(profile))
    return Section(f"{own}-device", f"On {profile.name}", tuple(blocks))


def agreement_table(profile: Profile) -> TableBlock:
    """Return how far the outputs on an emulated device are from those on the host."""
    header, *rows = profile.agreement
    columns = tuple(name[0].upper() + name[1:] for name in header)
    caption = f"Outputs on {profile.name} against the host's: largest differences, relative to the largest magnitude."
    return TableBlock(caption, columns, tuple(Row(tuple(map(Cell, row))) for row in rows), frozenset())


def _no_energy(profile: Profile) -> str:
    reasons = []
    for r in profile.results:
        modelled = r.energy_gross_j.value is not None
        reasons.append(
            f"{r.energy_kind} ({r.energy_meter or 'no meter named'}), see the table"
            if modelled
            else r.energy_gross_j.why
        )
    return "not measured: " + "; ".join(dict.fromkeys(reasons)) if reasons else "not measured: nothing was run"


def _value(quantity: Quantity, foot: Footnotes, write: Any = text.number) -> Cell:
    return foot.cell(quantity.why) if quantity.value is None else Cell(write(quantity.value))


def _by_load(profile: Profile, make: Any) -> Iterable[Row]:
    for load in profile.loads:
        yield group(str(load).capitalize())
        for label in profile.labels:
            for result in profile.results:
                if result.label == label and result.load == load:
                    yield make(result)


def latency_table(profile: Profile) -> TableBlock:
    """Return latency percentiles per load and model."""
    foot = Footnotes()
    keys = ("p50", "p90", "p95", "p99", "mean", "stdev")

    def row(r: Measurement) -> Row:
        counts = (r.latency_n, r.latency_warmup)
        verdict = str(r.quality.get("verdict") or "no verdict")
        return Row(
            (
                Cell(r.label),
                *(_value(r.latency[k], foot) for k in keys),
                _value(r.throughput_per_s, foot),
                *(_value(q, foot, text.count) for q in counts),
                _value(r.latency_duration_s, foot),
                Cell(verdict, tone="good" if r.clean else "warn"),
            )
        )

    columns = (
        "Model",
        "p50",
        "p90",
        "p95",
        "p99",
        "Mean",
        "Std. dev.",
        "Per second",
        "Runs",
        "Warm-up",
        "Seconds",
        "Verdict",
    )
    caption = f"Latency on {profile.name} in milliseconds."
    return TableBlock(
        caption,
        columns,
        tuple(_by_load(profile, row)),
        frozenset({11}),
        foot.notes(),
        label="Latency: every percentile",
    )


def resource_table(profile: Profile) -> TableBlock:
    """Return memory, start-up, processor time, energy and accuracy; one shared meter is named once."""
    foot = Footnotes()
    sources = {_meter(r) for r in profile.results}
    shared = len(sources) == 1 and not any(_beside(r) for r in profile.results)

    def row(r: Measurement) -> Row:
        window, idle = r.energy_facts.get("window_s"), r.energy_facts.get("idle_w")
        cells = (
            Cell(r.label),
            _value(r.peak_rss_bytes, foot, text.megabytes),
            _value(r.rss_after_load_bytes, foot, text.megabytes),
            _value(r.disk_bytes, foot, text.count),
            _value(r.cold_start_ms, foot, text.milliseconds),
            _value(r.cpu_s_per_inf, foot),
            _value(r.energy_gross_j, foot, text.joules),
            _value(r.energy_net_j, foot, text.joules),
            Cell(shown(idle) if idle is None else f"{text.number(idle)}{text.NBSP}W"),
            Cell(shown(window) if window is None else f"{text.number(window)}{text.NBSP}s"),
            _value(r.accuracy, foot, text.percent),
        )
        return Row(cells if shared else (*cells, Cell(_meter(r), _beside(r))))

    heads = ["Model", "Peak memory", "After load", "Disk, bytes", "Cold start", "CPU s", "Energy gross", "Energy net"]
    heads += ["Idle", "Window", "Accuracy"] + ([] if shared else ["Energy source"])
    methods = sorted({r.memory_method for r in profile.results if r.memory_method})
    caption = f"Resources on {profile.name}; CPU time and energy per inference"
    caption += f"; memory by {', '.join(methods)}" if methods else ""
    caption += f"; energy {sources.pop()}" if shared else ""
    rows = tuple(_by_load(profile, row))
    return TableBlock(
        f"{caption}.", tuple(heads), rows, frozenset({11}), foot.notes(), "Memory, start-up, CPU time, energy"
    )


def _meter(r: Measurement) -> str:
    scope = r.energy_facts.get("scope")
    parts = (r.energy_kind, r.energy_meter, f"scope {shown(scope)}" if scope else "")
    return ", ".join(dict.fromkeys(part for part in parts if part))


def _beside(r: Measurement) -> tuple[str, ...]:
    # Meters that were skipped are the reason itself where nothing was measured.
    skip = ("window_s", "idle_w", "scope") + (("skipped",) if r.energy_kind == "unavailable" else ())
    return tuple(_fact(k, v) for k, v in r.energy_facts.items() if k not in skip and v is not None)


def _fact(key: str, value: Any) -> str:
    """Return a recorded figure with the unit that its name ends in: idle_w 3.17 becomes `idle 3.170 W`."""
    stem, _, unit = key.rpartition("_")
    units = {"w": "W", "s": "s", "j": "J", "ms": "ms", "hz": "Hz", "pct": "%"}
    if stem and unit in units and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{stem.replace('_', ' ')} {text.number(float(value))}{text.NBSP}{units[unit]}"
    return f"{key.replace('_', ' ')} {shown(value)}"


def comparison_table(profile: Profile) -> TableBlock:
    """Return the interleaved comparisons as the profile recorded them."""
    foot = Footnotes()
    rows = []
    for c in profile.comparisons:
        known = c.low is not None and c.high is not None
        ends = Cell(f"{text.number(c.low or 0)} to {text.number(c.high or 0)}") if known else foot.cell(c.why)
        names = (Cell(c.candidate), Cell(c.baseline), Cell(c.metric.replace("_", " ")), Cell(str(c.load)))
        rows.append(Row((*names, _value(c.ratio, foot), ends, _value(c.n, foot, text.count))))
    columns = ("Model", "Against", "Figure", "Load", "Ratio", "95 % interval", "n")
    caption = f"Interleaved comparisons on {profile.name}: model divided by what it is compared with, below 1 is less."
    words_in = frozenset({1, 2, 3})
    return TableBlock(caption, columns, tuple(rows), words_in, foot.notes(), "Interleaved comparisons")


def trust_section(run: RunFacts, prefix: str) -> Section:
    """Return environment and quality for every device."""
    if run.no_profile:
        return Section(f"{prefix}quality", "Environment and quality", (missing(run.no_profile),))
    blocks: list[Block] = []
    for profile in run.profiles:
        blocks += [
            NoteBlock(f"{profile.name}: {_verdicts(profile)}."),
            quality_table(profile),
            environment_table(profile),
        ]
    return Section(f"{prefix}quality", "Environment and quality", tuple(blocks))


def _verdicts(profile: Profile) -> str:
    counted: dict[str, int] = {}
    for r in profile.results:
        verdict = str(r.quality.get("verdict") or "without a verdict")
        counted[verdict] = counted.get(verdict, 0) + 1
    return ", ".join(f"{text.plural(n, 'result')} {verdict}" for verdict, n in counted.items()) or "no results"


def quality_table(profile: Profile) -> TableBlock:
    """Return how quiet the machine was, result by result."""
    keys = list(dict.fromkeys(k for r in profile.results for k in r.quality if k != "verdict"))

    def row(r: Measurement) -> Row:
        verdict = str(r.quality.get("verdict") or "no verdict")
        return Row(
            (
                Cell(r.label),
                Cell(verdict, tone="good" if r.clean else "warn"),
                *(Cell(shown(r.quality.get(k))) for k in keys),
            )
        )

    words_in = frozenset({1} | {2 + keys.index(k) for k in ("reasons", "unread") if k in keys})
    columns = ("Model", "Verdict", *(_title(k) for k in keys))
    caption = f"How quiet {profile.name} was while each result was taken."
    return TableBlock(caption, columns, tuple(_by_load(profile, row)), words_in, label="Quality of every result")


def environment_table(profile: Profile) -> TableBlock:
    """Return what the device ran; a setting that differed is listed by model and load."""
    rows = []
    for key in dict.fromkeys(k for r in profile.results for k in r.env):
        values = [shown(r.env.get(key)) for r in profile.results]
        if len(set(values)) == 1:
            rows.append(words(_title(key), values[0]))
        else:
            listed = tuple(f"{r.label}, {r.load}: {v}" for r, v in zip(profile.results, values, strict=True))
            rows.append(Row((Cell(_title(key)), Cell("differs", listed))))
    hashes = {r.label: r.sha256 for r in profile.results if r.sha256}
    rows += [words(f"sha256 of {label}", value) for label, value in hashes.items()]
    return TableBlock(
        f"What {profile.name} ran.", ("Setting", "Value"), tuple(rows), frozenset({1}), label="Environment"
    )


def _title(key: str) -> str:
    return key.replace("_", " ").replace("pct", "%")


def shown(value: Any) -> str:
    """Return any JSON value as a reader wants it."""
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return text.count(value) if float(value).is_integer() and abs(value) < 1e15 else text.number(float(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(v) for v in value) if value else "none"
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, dict) else str(value)
