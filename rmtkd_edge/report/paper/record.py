"""paper.json: the figures of the tables, for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Document


@dataclass(frozen=True)
class PairedRecord:
    """This row minus the reference on the same rows, mean over seeds, in the metric's unit.

    Attributes:
        low, high: ends of the 95 % paired bootstrap interval over rows.
        seeds, reference_seeds: runs of each.
        mcnemar_p: None for metrics other than accuracy.
        clear: the interval leaves out zero.
    """

    difference: float
    low: float
    high: float
    rows: int
    seeds: int
    reference_seeds: int
    mcnemar_p: float | None
    clear: bool


@dataclass(frozen=True)
class RowRecord:
    """One method under one setting; figures are means over its seeds.

    Attributes:
        differs: keys in which the setting differs from the method's reference: its value and the reference's, as JSON.
        reduction, body_reduction: share of the parameters that is gone, of all and without word table and classifier.
        change: student minus teacher; `change_sd` is the sample deviation over seeds, None for one seed.
        steps: optimiser steps; `steps_by_seed` are those of every run.
        seconds: of compression by step.
        paired: None where `why_not_paired` says why.
    """

    method: str
    differs: dict[str, tuple[str, str]]
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    parameters: float
    reduction: float
    body_reduction: float | None
    value: float
    change: float
    change_sd: float | None
    steps: float
    steps_by_seed: tuple[int, ...]
    seconds: dict[str, float]
    devices: tuple[str, ...]
    paired: PairedRecord | None
    why_not_paired: str


@dataclass(frozen=True)
class GroupRecord:
    """Students of one teacher on the same rows that were asked for the same size.

    Attributes:
        asked: share of the parameters that was to go, None where none was.
        table: references of all methods, then settings that are neither these nor ablations.
        ablations: RMT-KD's settings that differ from its reference in one key.
        repeated: runs that are not counted since they are the same again.
    """

    task: str
    kind: str
    metric: str
    percent: bool
    split: str
    rows: int
    teacher_sha256: str
    rows_sha256: str
    asked: float | None
    teacher_value: float
    teacher_parameters: int
    table: tuple[RowRecord, ...]
    ablations: tuple[RowRecord, ...]
    repeated: tuple[str, ...]


@dataclass(frozen=True)
class FileRecord:
    """One exported file, and where it was measured its cost on one device under one workload.

    Attributes:
        graph: `fast` or `portable`.
        value: of the metric on the reported rows, None where it was not scored.
        change: minus that of the same model in fp32; None for fp32.
        speedup: p50 of the original's fp32 file divided by this file's.
        watts: gross energy of an inference divided by its mean latency.
    """

    run: str
    label: str
    precision: str
    graph: str
    disk_bytes: int
    value: float | None
    change: float | None
    percent: bool
    device: str = ""
    workload: str = ""
    p50_ms: float | None = None
    speedup: float | None = None
    memory_bytes: float | None = None
    joules: float | None = None
    watts: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One quantile of an ablation, means over seeds; `quantile` is None for a rule that has none."""

    quantile: float | None
    reduction: float
    value: float
    seeds: int


@dataclass(frozen=True)
class CurveRecord:
    """Runs that differ in the quantile alone, under one edge rule.

    Attributes:
        falls: quantiles at which less goes than at the one before: the curve is not monotone there.
    """

    task: str
    rule: str
    points: tuple[CurvePoint, ...]
    falls: tuple[float, ...]


@dataclass(frozen=True)
class SkippedRecord:
    """A folder or run that is not in the report."""

    run: str
    why: str
    hint: str


@dataclass(frozen=True)
class PaperRecord(Document):
    """All that the tables and figures say."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/paper@1"

    groups: tuple[GroupRecord, ...]
    curves: tuple[CurveRecord, ...]
    files: tuple[FileRecord, ...]
    skipped: tuple[SkippedRecord, ...]
