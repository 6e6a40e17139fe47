"""The section that says how far measurements can be trusted: environment and quality of every device."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, Cell, NoteBlock, Row, Section, TableBlock, missing, text_row
from rmtkd_edge.report.devices import by_workload, verdict_cell
from rmtkd_edge.report.records import Profile, RunFacts
from rmtkd_edge.run.records.profile import MeasurementRecord

OUTPUTS = ("max_rel_diff", "max_abs_diff", "tolerance")  # how far the device's outputs are from the reference


def trust_section(run: RunFacts, prefix: str) -> Section:
    """Return environment and quality for every device."""
    blocks: list[Block] = [missing(run.no_profile)] if run.no_profile else []
    for profile in run.profiles:
        counted = Counter(r.verdict for r in profile.results)
        verdicts = ", ".join(f"{text.plural(n, 'result')} {verdict}" for verdict, n in counted.items()) or "no results"
        blocks += [NoteBlock(f"{profile.name}: {verdicts}."), quality_table(profile), environment_table(profile)]
    return Section(f"{prefix}quality", "Environment and quality", tuple(blocks))


def quality_table(profile: Profile) -> TableBlock:
    """Return how quiet the machine was, result by result."""
    keys = list(dict.fromkeys(k for r in profile.results for k in r.quality if k != "verdict"))

    def row(r: MeasurementRecord) -> Row:
        outputs = (Cell(shown(getattr(r.verification, key))) for key in OUTPUTS)
        return Row((Cell(r.label), verdict_cell(r), *(Cell(shown(r.quality.get(k))) for k in keys), *outputs))

    text_columns = frozenset({1} | {2 + keys.index(k) for k in ("reasons", "unread") if k in keys})
    columns = ("Model", "Verdict", *map(_title, keys), *(f"output {_title(key)}" for key in OUTPUTS))
    caption = f"How quiet {profile.name} was while each result was taken."
    return TableBlock(caption, columns, by_workload(profile, row), text_columns, label="Quality of every result")


def environment_table(profile: Profile) -> TableBlock:
    """Return what the device ran; a setting that differed is listed by model and workload."""
    rows = []
    for key in dict.fromkeys(k for r in profile.results for k in r.env):
        values = [shown(r.env.get(key)) for r in profile.results]
        if len(set(values)) == 1:
            rows.append(text_row(_title(key), values[0]))
        else:
            listed = tuple(f"{r.label}, {r.workload}: {v}" for r, v in zip(profile.results, values, strict=True))
            rows.append(Row((Cell(_title(key)), Cell("differs", listed))))
    hashes = {r.label: r.model.sha256 for r in profile.results}
    rows += [text_row(f"sha256 of {label}", value) for label, value in hashes.items()]
    caption = f"What {profile.name} ran."
    return TableBlock(caption, ("Setting", "Value"), tuple(rows), frozenset({1}), label="Environment")


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
