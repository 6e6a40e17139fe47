"""JSON tables of a run in, records out; a figure that is null keeps the reason that stands beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.report.records import Comparison, Cycle, Exported, Load, Measurement, Profile, Quantity, Site, Variant

ENERGY_KEYS = ("j_per_inf_gross", "j_per_inf_net", "meter", "kind", "why")
PERCENTILE_NEEDS = {"p90": 100, "p95": 100, "p99": 1000}


@dataclass(frozen=True)
class Table:
    """A JSON object and where it stands, so that every fault can name its place."""

    data: Any
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.data, dict):
            raise RunDirError(
                f"{self.where} should be a table, not {type(self.data).__name__}", "run the stage that wrote it again"
            )

    def expect(self, schema: str) -> None:
        """Raise RunDirError unless the schema is version 1 of `schema`."""
        found = str(self.data.get("schema", ""))
        if found != f"{schema}1":
            raise RunDirError(
                f"{self.where} has schema {found!r}, this version reads {schema}1", "use the version that wrote the run"
            )

    def need(self, key: str) -> Any:
        """Return a value that must be there; raise RunDirError otherwise."""
        if self.data.get(key) is None:
            raise RunDirError(f"{self.where} has no `{key}`", "run the stage that wrote it again")
        return self.data[key]

    def quantity(self, key: str, source: str = "", why: str = "") -> Quantity:
        """Return a number, or None with the reason: the recorded `why`, else `why`, else that the file does not say."""
        value = self.data.get(key)
        if value is None:
            recorded = self.data.get(f"{key}_why") or self.data.get(f"why_{key}") or self.data.get("why")
            absent = "no reason recorded" if key in self.data else f"{self.where.split()[0]} does not record {key}"
            return Quantity(None, str(recorded or why or absent), source)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RunDirError(f"{self.where}: `{key}` is {value!r}, not a number", "run the stage that wrote it again")
        if not math.isfinite(value):
            return Quantity(None, f"the recorded value is {value}", source)
        return Quantity(float(value), "", source)

    def text(self, key: str) -> str:
        """Return a text, empty where there is none."""
        value = self.data.get(key)
        return "" if value is None else str(value)

    def table(self, key: str) -> Table:
        """Return a table below this one; an absent one is empty, so that its figures say what is not recorded."""
        value = self.data.get(key)
        return Table({} if value is None else value, f"{self.where} {key}")

    def list(self, key: str) -> list[Any]:
        """Return a list; an absent one is empty."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, list):
            raise RunDirError(f"{self.where}: `{key}` is not a list", "run the stage that wrote it again")
        return value or []


def read_site(table: Table, spectrum: tuple[float, ...] | None) -> Site:
    """Return one site of a cycle."""
    rank, aligned = table.data.get("rank"), table.data.get("aligned_rank")
    return Site(
        name=str(table.need("name")),
        kind=table.text("kind"),
        heads=int(table.data.get("heads") or 1),
        width_before=int(table.need("width_before")),
        width_after=int(table.need("width_after")),
        raw_width=int(table.data.get("raw_width") or table.need("width_before")),
        rank=None if rank is None else int(rank),
        aligned_rank=None if aligned is None else int(aligned),
        rule=table.text("rule"),
        weighting=table.text("weighting"),
        note=table.text("note"),
        spectrum=spectrum,
        **{
            key: table.quantity(key) for key in ("quantile", "lambda_plus", "lambda_minus", "sigma2", "q", "n", "n_eff")
        },
    )


def read_cycle(table: Table, spectra: dict[str, tuple[float, ...]]) -> Cycle:
    """Return one cycle; `spectra` maps site names to eigenvalues, descending."""
    sites = [Table(s, f"{table.where} site {i}") for i, s in enumerate(table.list("sites"), 1)]
    return Cycle(
        index=int(table.need("index")),
        round=int(table.data.get("round") or 1),
        sites=tuple(read_site(s, spectra.get(s.text("name"))) for s in sites),
        parameters_before=int(table.need("parameters_before")),
        parameters_after=int(table.need("parameters_after")),
        accuracy_before=table.quantity("accuracy_before"),
        accuracy_closed_form=table.quantity("accuracy_closed_form"),
        accuracy_after=table.quantity("accuracy_after"),
        chosen=table.text("chosen"),
        accepted=bool(table.need("accepted")),
        reason=table.text("reason"),
        seconds={k: float(v) for k, v in table.table("seconds").data.items() if v is not None},
        steps=table.quantity("steps"),
    )


def read_exported(table: Table) -> Exported:
    """Return an exported folder from its rmtkd.json."""
    table.expect("rmtkd-edge/export@")
    check, fusion, variants = table.table("verification"), table.table("fusion"), table.table("variants")
    tolerances = {k: float(v) for k, v in check.table("tolerances").data.items() if v is not None}
    skip = ("rows", "tolerances", "why")
    checks = {
        k: check.quantity(k)
        for k in check.data
        if k not in skip and not k.endswith("_why") and _is_number(check.data[k])
    }
    return Exported(
        model_id=table.text("model_id"),
        parameters=table.quantity("parameters"),
        teacher_parameters=table.quantity("teacher_parameters"),
        reduction=table.quantity("reduction"),
        ranks={k: int(v) for k, v in table.table("ranks").data.items()},
        verification=checks,
        tolerances=tolerances,
        verification_rows=check.quantity("rows"),
        variants={k: read_variant(k, variants.table(k)) for k in variants.data if variants.data[k] is not None},
        fusion=tuple(read_fusion(fusion)),
        versions={k: str(v) for k, v in table.table("versions").data.items()},
    )


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def read_variant(precision: str, table: Table) -> Variant:
    """Return one ONNX file of an exported folder."""
    return Variant(
        precision=precision,
        file=table.text("file"),
        size_bytes=table.quantity("size_bytes"),
        sha256=table.text("sha256"),
        accuracy=table.quantity("accuracy"),
        n=table.quantity("n"),
        difference=table.quantity("relative_difference"),
        agreement=table.quantity("argmax_agreement"),
        refused=table.text("refused"),
    )


def read_fusion(table: Table) -> Iterator[tuple[str, dict[str, int], dict[str, int]]]:
    """Yield (graph, expected, found) for the emitted graph and for each variant as onnxruntime runs it."""
    optimised = table.table("optimised")
    audits = [("As exported", table), *((f"{k} as onnxruntime runs it", optimised.table(k)) for k in optimised.data)]
    for graph, audit in audits:
        expected, found = audit.table("expected").data, audit.table("found").data
        if expected or found:
            yield graph, {k: int(v) for k, v in expected.items()}, {k: int(v) for k, v in found.items()}


def read_load(table: Table, scenario: str = "") -> Load:
    """Return a load; `scenario` is used where the table names none."""
    seq = table.data.get("seq")
    return Load(int(table.need("batch")), None if seq is None else int(seq), table.text("scenario") or scenario)


def read_profile(table: Table) -> Profile:
    """Return what was measured on one device."""
    table.expect("rmtkd-edge/profile@")
    results = [Table(r, f"{table.where} result {i}") for i, r in enumerate(table.list("results"), 1)]
    measurements = tuple(read_measurement(r) for r in results)
    pairs = [Table(c, f"{table.where} comparison {i}") for i, c in enumerate(table.list("comparisons"), 1)]
    scenarios = {(m.load.batch, m.load.seq): m.load.scenario for m in reversed(measurements)}
    return Profile(
        str(table.need("profile")),
        measurements,
        tuple(read_comparison(p, scenarios) for p in pairs),
        read_conditions(table),
        read_agreement(table),
    )


def read_agreement(table: Table) -> tuple[tuple[str, ...], ...]:
    """Return the table of how far an emulated device's outputs agree, the header first; empty for any other device."""
    if not table.table("hardware").data.get("emulated"):
        return ()
    from rmtkd_edge.profile.emulation import agreement_rows

    return tuple(tuple(row) for row in agreement_rows(table.list("results")))


def read_conditions(table: Table) -> tuple[str, ...]:
    """Return what the figures of a profile stand under: device, inputs, effort, notes, comparability."""
    inputs = table.text("inputs")
    found = [table.text("title"), f"Inputs: {inputs}" if inputs else "", *(str(note) for note in table.list("notes"))]
    if table.data.get("quick"):
        found.append("Quick effort: fewer runs and shorter windows than a full profile")
    if table.data.get("comparable") is False:
        found.append("Figures under this name are not comparable between two machines")
    return tuple(f[0].upper() + f[1:] for f in found if f)


def read_comparison(table: Table, scenarios: dict[tuple[int, int | None], str]) -> Comparison:
    """Return one comparison; where its load names no scenario, it is the one that this load was measured in."""
    load = read_load(table.table("load"))
    ends = table.data.get("ci95") or [None, None]
    return Comparison(
        candidate=str(table.need("candidate")),
        baseline=str(table.need("baseline")),
        metric=table.text("metric"),
        load=Load(load.batch, load.seq, load.scenario or scenarios.get((load.batch, load.seq), "")),
        ratio=table.quantity("ratio"),
        low=None if ends[0] is None else float(ends[0]),
        high=None if ends[1] is None else float(ends[1]),
        n=table.quantity("n"),
        why=table.text("why") or "no interval recorded",
    )


def read_measurement(table: Table) -> Measurement:
    """Return one result of a profile."""
    model, memory, energy = table.table("model"), table.table("memory"), table.table("energy")
    latency, accuracy = table.table("latency"), table.table("accuracy")
    meter, kind = energy.text("meter"), energy.text("kind") or "unavailable"
    source = ", ".join(dict.fromkeys(part for part in (kind, meter) if part))
    return Measurement(
        label=str(table.need("label")),
        role=table.text("role"),
        model_id=model.text("id"),
        precision=model.text("precision"),
        sha256=model.text("sha256"),
        load=read_load(table.table("load"), table.text("scenario")),
        latency=read_latency(latency),
        latency_n=latency.quantity("n"),
        latency_warmup=latency.quantity("warmup"),
        latency_duration_s=latency.quantity("duration_s"),
        latency_rounds=read_rounds(latency),
        throughput_per_s=table.quantity("throughput_per_s"),
        cold_start_ms=table.quantity("cold_start_ms"),
        cpu_s_per_inf=table.quantity("cpu_s_per_inf"),
        disk_bytes=model.quantity("disk_bytes"),
        peak_rss_bytes=memory.quantity("peak_rss_bytes", memory.text("method")),
        rss_after_load_bytes=memory.quantity("rss_after_load_bytes", memory.text("method")),
        memory_method=memory.text("method"),
        energy_gross_j=energy.quantity("j_per_inf_gross", source),
        energy_net_j=energy.quantity("j_per_inf_net", source),
        energy_kind=kind,
        energy_meter=meter,
        energy_facts={k: v for k, v in energy.data.items() if k not in ENERGY_KEYS and not k.endswith("_why")},
        accuracy=accuracy.quantity("value", why="accuracy is not taken on the device"),
        accuracy_n=accuracy.quantity("n"),
        quality=read_quality(table),
        env=dict(table.table("env").data),
    )


def read_latency(table: Table) -> dict[str, Quantity]:
    """Return mean, p50, p90, p95, p99 and stdev in ms; a percentile that is null says how many samples it wants."""
    unit = table.text("unit") or "ms"
    scale = {"ms": 1.0, "s": 1e3, "us": 1e-3, "ns": 1e-6}.get(unit)
    if scale is None:
        raise RunDirError(f"{table.where}: unknown unit {unit!r}", "profile the run again")
    found = {}
    for key in ("mean", "p50", "p90", "p95", "p99", "stdev"):
        needs, n = PERCENTILE_NEEDS.get(key), table.data.get("n")
        # The same words for every row, so that they become one footnote; the number of runs stands in the table.
        short = f"{key} needs {needs:,} samples" if needs and n is not None and n < needs else ""
        quantity = Quantity(None, short) if short and table.data.get(key) is None else table.quantity(key)
        found[key] = quantity if quantity.value is None else Quantity(quantity.value * scale)
    return found


def read_rounds(table: Table) -> tuple[tuple[float, ...], ...]:
    """Return the raw times in ms, one tuple a round; empty where the profile holds no raw times or no rounds."""
    values, sizes = [float(v) for v in table.list("values")], [int(n) for n in table.list("round_sizes")]
    if sum(sizes) != len(values):
        raise RunDirError(f"{table.where}: {len(values)} values, rounds of {sum(sizes)}", "profile the run again")
    ends = list(accumulate(sizes))
    return tuple(tuple(values[end - size : end]) for end, size in zip(ends, sizes, strict=True))


def read_quality(table: Table) -> dict[str, Any]:
    """Return how quiet the machine was and how far the device's outputs were from the reference."""
    outputs = table.table("verification").data
    found = {f"output_{key}": outputs[key] for key in ("max_rel_diff", "max_abs_diff", "tolerance") if key in outputs}
    return {**table.table("quality").data, **found}
