"""profile/NAME.json: what was measured on one device.

Part of it comes from the device, so that ranges are checked as well as types; what a device sends is checked by the
same ranges before anything is computed from it (profile/foreign.py). Raw values are kept; a figure that is None has its
reason under the same name with `_why`, or under `why` of its part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rmtkd_edge.run.records.base import Amount, Count, Document

Positive = Annotated[int, Field(ge=1, le=2**20)]
Milliseconds = Annotated[float, Field(ge=0, le=1e9)]  # 11 days
Joules = Annotated[float, Field(ge=0, le=1e12)]
Bytes = Annotated[int, Field(ge=0, le=2**50)]
Share = Annotated[float, Field(ge=0, le=1)]
Provenance = Literal["measured-counter", "measured-sampled", "modelled", "unavailable"]


@dataclass(frozen=True)
class WorkloadRecord:
    """What one call ran: batch, sequence length in tokens (None for images) and MLPerf's scenario."""

    batch: Positive
    seq: Positive | None = None
    scenario: str | None = None

    @property
    def key(self) -> tuple[int, int | None]:
        """Return what two workloads are compared by."""
        return self.batch, self.seq

    def __str__(self) -> str:
        length = "" if self.seq is None else f" × {self.seq} tokens"
        scenario = self.scenario or "single_stream"
        return f"batch {self.batch}{length}" + ("" if scenario == "single_stream" else f", {scenario}")


@dataclass(frozen=True)
class MeasuredModel:
    """The file that ran; `id` and `parameters` as the export recorded them."""

    id: str | None
    parameters: Count | None
    sha256: str
    precision: str
    file: str
    disk_bytes: Bytes
    files: tuple[str, ...]


@dataclass(frozen=True)
class LatencyRecord:
    """Latency of one call in ms; `values` holds every call, round after round, `round_sizes` the calls of a round."""

    unit: Literal["ms"]
    warmup: Count
    n: Count
    duration_s: Amount
    mean: Milliseconds | None
    p50: Milliseconds | None
    p90: Milliseconds | None
    p95: Milliseconds | None
    p99: Milliseconds | None
    stdev: Milliseconds | None
    values: tuple[Milliseconds, ...]
    round_sizes: tuple[Count, ...]
    openings: Count | None = None
    mean_why: str | None = None
    p50_why: str | None = None
    p90_why: str | None = None
    p95_why: str | None = None
    p99_why: str | None = None
    stdev_why: str | None = None

    def __post_init__(self) -> None:
        if sum(self.round_sizes) != len(self.values):
            raise ValueError(f"{len(self.values)} values, rounds of {sum(self.round_sizes)}")

    @property
    def rounds(self) -> list[tuple[float, ...]]:
        """Return the raw times in ms, round by round."""
        ends = list(accumulate(self.round_sizes))
        return [self.values[end - size : end] for end, size in zip(ends, self.round_sizes, strict=True)]


@dataclass(frozen=True)
class ColdStartRecord:
    """Times from process start to the first output; `session_ms` is the part that opens the session."""

    method: str
    raw_ms: tuple[Milliseconds, ...]
    session_ms: Milliseconds | None


@dataclass(frozen=True)
class MemoryLimitRecord:
    """Whether the model runs in the memory of the profile, None where it is unknown."""

    limit_bytes: Bytes
    needs_bytes: Bytes | None
    fits: bool | None
    imposed_by: str | None
    why: str | None = None


@dataclass(frozen=True)
class MemoryRecord:
    """Resident memory of a fresh process, above one that only imports the runtime."""

    peak_rss_bytes: Bytes | None
    rss_after_load_bytes: Bytes | None
    repeats: Count
    method: str
    bare_import_bytes: Bytes | None = None
    peak_rss_raw: tuple[Bytes, ...] = ()
    limit: MemoryLimitRecord | None = None
    why: str | None = None


@dataclass(frozen=True)
class EnergyRecord:
    """Joules per inference: gross, and net of idle power; `other_meters` read in the same time."""

    j_per_inf_gross: Joules | None
    j_per_inf_net: Joules | None
    idle_w: Amount | None
    window_s: Amount
    meter: str
    kind: Provenance
    scope: str
    skipped: tuple[str, ...] | None = None
    other_meters: dict[str, float | None] | None = None
    why: str | None = None
    j_per_inf_gross_why: str | None = None
    j_per_inf_net_why: str | None = None


@dataclass(frozen=True)
class OutputsRecord:
    """How far the outputs on the device are from the host's, relative to the largest magnitude and absolute.

    Those of the fp32 file, and under `same_file` of the file itself where it is not fp32.
    """

    max_abs_diff: Amount
    max_rel_diff: Amount
    tolerance: Amount | None
    outputs: tuple[str, ...]
    same_labels: Share | None = None
    same_file_max_abs_diff: Amount | None = None
    same_file_max_rel_diff: Amount | None = None
    same_file_tolerance: Amount | None = None


@dataclass(frozen=True)
class FileScore:
    """The primary metric of the file, as the export measured it."""

    metric: str
    value: float | None
    n: Count | None
    provenance: str
    why: str | None = None


@dataclass(frozen=True)
class MeasurementRecord:
    """One model under one workload on one device."""

    schema: str
    label: str
    role: str
    profile: str
    model: MeasuredModel
    workload: WorkloadRecord
    scenario: str
    env: dict[str, Any]
    latency: LatencyRecord
    throughput_per_s: Amount | None
    cpu_s_per_inf: Amount | None
    cold_start_ms: Milliseconds | None
    cold_start: ColdStartRecord
    memory: MemoryRecord
    energy: EnergyRecord
    verification: OutputsRecord
    quality: dict[str, Any]
    score: FileScore
    throughput_per_s_why: str | None = None
    cpu_s_per_inf_why: str | None = None
    cold_start_ms_why: str | None = None

    @property
    def verdict(self) -> str:
        """Return what the measurement says of itself: clean, or what disturbed it."""
        return str(self.quality.get("verdict") or "no verdict")

    @property
    def clean(self) -> bool:
        """Return whether the machine was quiet while this was measured."""
        return self.verdict == "clean"


@dataclass(frozen=True)
class ComparisonRecord:
    """Candidate divided by baseline in interleaved rounds; `clear`: the interval leaves out 1.

    Attributes:
        n: values of both together.
        ci95: None where it cannot be had, and `why` says so.
    """

    candidate: str
    baseline: str
    metric: str
    workload: WorkloadRecord
    ratio: Amount
    ci95: tuple[Amount, Amount] | None
    n: Count
    rounds: Count
    clear: bool
    why: str | None = None


@dataclass(frozen=True)
class ProfileRecord(Document):
    """All that was measured on one device."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/profile@2"

    profile: str
    title: str
    comparable: bool
    quick: bool
    inputs: str
    notes: tuple[str, ...]
    meter: dict[str, Any]
    hardware: dict[str, Any]
    results: tuple[MeasurementRecord, ...]
    comparisons: tuple[ComparisonRecord, ...]

    @property
    def emulated(self) -> bool:
        """Return whether the processor was emulated: outputs can be compared then, times mean nothing."""
        return bool(self.hardware.get("emulated"))


def agreement_rows(results: Iterable[MeasurementRecord]) -> list[list[str]]:
    """Return a table, the header first, of how far outputs are from the host's: of fp32, and of the same file."""
    table = [["model", "batch", "tokens", "from fp32", "from itself: relative", "absolute", "tolerance", "same labels"]]
    for r in results:
        check, workload = r.verification, r.workload
        itself = (check.same_file_max_rel_diff, check.same_file_max_abs_diff, check.same_file_tolerance)
        if r.model.precision == "fp32":
            itself = (check.max_rel_diff, check.max_abs_diff, check.tolerance)
        limit = itself[2]
        row = [r.label, str(workload.batch), str(workload.seq or "-"), f"{check.max_rel_diff:.1e}"]
        row += ["-" if value is None else f"{value:.1e}" for value in itself[:2]]
        same = "-" if check.same_labels is None else f"{100 * check.same_labels:.0f} %"
        table.append([*row, "-" if limit is None else f"{limit:g}", same])
    return table
