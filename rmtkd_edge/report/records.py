"""What the report knows of a run: frozen values, each either a figure or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quantity:
    """One figure in the unit that its field names; where `value` is None, `why` says why."""

    value: float | None
    why: str = ""
    source: str = ""


@dataclass(frozen=True)
class Missing:
    """A stage that has not left anything: what is missing and the command that creates it."""

    stage: str
    why: str
    command: str


@dataclass(frozen=True)
class Site:
    """A width that was analysed in one cycle; `spectrum` holds the eigenvalues of all `heads`, descending, or None."""

    name: str
    kind: str
    heads: int
    width_before: int
    width_after: int
    raw_width: int
    rank: int | None
    aligned_rank: int | None
    rule: str
    weighting: str
    quantile: Quantity
    lambda_plus: Quantity
    lambda_minus: Quantity
    sigma2: Quantity
    q: Quantity
    n: Quantity
    n_eff: Quantity
    note: str
    spectrum: tuple[float, ...] | None


@dataclass(frozen=True)
class Cycle:
    """One train - analyse - project - fine-tune step; accuracies in [0, 1], times in seconds."""

    index: int
    round: int
    sites: tuple[Site, ...]
    parameters_before: int
    parameters_after: int
    accuracy_before: Quantity
    accuracy_closed_form: Quantity
    accuracy_after: Quantity
    chosen: str
    accepted: bool
    reason: str
    seconds: dict[str, float]
    steps: Quantity


@dataclass(frozen=True)
class Compression:
    """What compress found; `missing` says what is not there yet while only cycles are."""

    missing: Missing | None
    task: str
    metric: str
    train_rows: Quantity
    validation_rows: Quantity
    teacher_parameters: Quantity
    teacher_accuracy: Quantity
    teacher_trained: bool | None
    student_parameters: Quantity
    student_accuracy: Quantity
    reduction: Quantity
    accuracy_drop: Quantity
    stop: str
    one_shot: bool
    seconds: Quantity
    cycles: tuple[Cycle, ...]
    floor: Quantity

    @property
    def finished(self) -> bool:
        """Whether compress came to its end."""
        return self.missing is None


@dataclass(frozen=True)
class Variant:
    """One ONNX file: size in bytes, accuracy in [0, 1] on `n` rows; `refused` says why it must not ship.

    difference: largest relative one of its outputs from torch's; agreement: share of rows with the same class.
    """

    precision: str
    file: str
    size_bytes: Quantity
    sha256: str
    accuracy: Quantity
    n: Quantity
    difference: Quantity
    agreement: Quantity
    refused: str


@dataclass(frozen=True)
class Exported:
    """An exported folder: the compressed model or the original that it is compared with.

    fusion: (graph, expected op counts, found op counts), as emitted and as onnxruntime runs each variant.
    """

    model_id: str
    parameters: Quantity
    teacher_parameters: Quantity
    reduction: Quantity
    ranks: dict[str, int]
    verification: dict[str, Quantity]
    tolerances: dict[str, float]
    verification_rows: Quantity
    variants: dict[str, Variant]
    fusion: tuple[tuple[str, dict[str, int], dict[str, int]], ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Load:
    """What one measurement ran: batch, sequence length (None for images) and MLPerf's scenario."""

    batch: int
    seq: int | None
    scenario: str

    def __str__(self) -> str:
        length = "" if self.seq is None else f" × {self.seq} tokens"
        offline = "" if self.scenario in ("", "single_stream") else f", {self.scenario.replace('_', ' ')}"
        return f"batch {self.batch}{length}{offline}"

    @property
    def order(self) -> tuple[bool, int, int]:
        """Sort key: single stream first, then small loads."""
        return self.scenario not in ("", "single_stream"), self.batch, self.seq or 0


@dataclass(frozen=True)
class Measurement:
    """One model on one device under one load.

    latency: mean, p50, p90, p95, p99, stdev in ms, latency_rounds the raw times by round in ms; energy in J.
    """

    label: str
    role: str
    model_id: str
    precision: str
    sha256: str
    load: Load
    latency: dict[str, Quantity]
    latency_n: Quantity
    latency_warmup: Quantity
    latency_duration_s: Quantity
    latency_rounds: tuple[tuple[float, ...], ...]
    throughput_per_s: Quantity
    cold_start_ms: Quantity
    cpu_s_per_inf: Quantity
    disk_bytes: Quantity
    peak_rss_bytes: Quantity
    rss_after_load_bytes: Quantity
    memory_method: str
    energy_gross_j: Quantity
    energy_net_j: Quantity
    energy_kind: str
    energy_meter: str
    energy_facts: dict[str, Any]
    accuracy: Quantity
    accuracy_n: Quantity
    quality: dict[str, Any]
    env: dict[str, Any]

    @property
    def clean(self) -> bool:
        """Whether the machine was quiet while this was measured."""
        return self.quality.get("verdict") == "clean"

    @property
    def energy_measured(self) -> bool:
        """Whether a meter read the energy (a modelled figure is not measured)."""
        return self.energy_kind.startswith("measured") and self.energy_gross_j.value is not None


@dataclass(frozen=True)
class Comparison:
    """Interleaved runs of two models: `ratio` with its 95 % interval, as the profile recorded them."""

    candidate: str
    baseline: str
    metric: str
    load: Load
    ratio: Quantity
    low: float | None
    high: float | None
    n: Quantity
    why: str


@dataclass(frozen=True)
class Profile:
    """All that was measured on one device."""

    name: str
    results: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    conditions: tuple[str, ...]
    agreement: tuple[tuple[str, ...], ...] = ()  # of an emulated device, which has no times: a table, the header first

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads that were run, single stream and small ones first."""
        return tuple(sorted({r.load for r in self.results}, key=lambda load: load.order))

    @property
    def labels(self) -> tuple[str, ...]:
        """The models that were run: originals first, as recorded otherwise."""
        seen = dict.fromkeys(r.label for r in sorted(self.results, key=lambda r: r.role == "candidate"))
        return tuple(seen)

    def find(self, label: str, load: Load) -> Measurement | None:
        """Return the measurement of a model under a load, or None."""
        return next((r for r in self.results if r.label == label and r.load == load), None)


@dataclass(frozen=True)
class RunFacts:
    """One run directory, read."""

    name: str
    title: str
    version: str
    created: str
    seed: int
    recipe_text: str
    recipe_sha256: str
    stages: dict[str, dict[str, Any]]
    compression: Compression | Missing
    exported: Exported | Missing
    baseline: Exported | Missing
    profiles: tuple[Profile, ...]
    no_profile: Missing | None
