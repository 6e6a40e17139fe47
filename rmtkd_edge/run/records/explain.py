"""explain/operators.json: where the time of a call goes, by operator, against what the machine reaches at its best.

Raw times are kept, round by round. A figure that is None has its reason under the same name with `_why`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from rmtkd_edge.run.records.base import Amount, Count, Document
from rmtkd_edge.run.records.profile import Milliseconds, Share, WorkloadRecord

Rounds = tuple[tuple[Milliseconds, ...], ...]


@dataclass(frozen=True)
class RateRecord:
    """Operations or bytes a second, at one size."""

    size: Count
    per_s: Amount


@dataclass(frozen=True)
class RooflineRecord:
    """What this machine reaches with the threads of the measurement: the fastest round of each.

    Attributes:
        gemm: operations a second of square matrix products, by arithmetic (`fp32`, `int8`); sizes are rows.
        copy: bytes read and written a second by a copy; sizes are the bytes that it touches.
    """

    gemm: dict[str, tuple[RateRecord, ...]]
    copy: tuple[RateRecord, ...]

    def flops_per_s(self, kind: str) -> float | None:
        """Return the best rate of products, None for an arithmetic that was not measured."""
        return max(rate.per_s for rate in self.gemm[kind]) if kind in self.gemm else None

    def bytes_per_s(self, size: float) -> float:
        """Return the best rate of copies that touch so many bytes or more, of the largest beyond it."""
        largest = max(rate.size for rate in self.copy)
        return max(rate.per_s for rate in self.copy if rate.size >= min(size, largest))

    @property
    def copy_range(self) -> tuple[float, float]:
        """Return the rates of the largest and of the smallest copy, in bytes a second."""
        sizes = [rate.size for rate in self.copy]
        return self.bytes_per_s(max(sizes)), self.bytes_per_s(min(sizes))


@dataclass(frozen=True)
class OperatorRecord:
    """All nodes of one operator in one call.

    Attributes:
        time_ms: median over calls of their sum; `by_round_ms` has the medians of the rounds.
        share: of the time of all operators.
        arithmetic: of products: `fp32`, `int8` or another; empty for what is no product.
        flops: floating-point or integer operations, two a multiply-accumulate.
        bytes_moved: read and written.
        flops_per_s, bytes_per_s: both over the time.
        roofline_ms: the least time at the machine's rates of products and copies, node by node the longer of the two.
        gain_ms: the time less that.
    """

    operator: str
    nodes: Count
    time_ms: Milliseconds
    share: Share
    by_round_ms: tuple[Milliseconds, ...]
    arithmetic: str
    flops: Amount | None
    bytes_moved: Amount | None
    flops_per_s: Amount | None
    bytes_per_s: Amount | None
    roofline_ms: Milliseconds | None
    gain_ms: Milliseconds | None
    flops_why: str = ""
    bytes_moved_why: str = ""
    roofline_ms_why: str = ""


@dataclass(frozen=True)
class ExplainedFile:
    """One ONNX file.

    Attributes:
        latency_ms: median of a call without the profiler; `latency_rounds_ms` every call.
        profiled_ms: median with it; `profiled_rounds_ms` every call.
        overhead: ratio of the two, less 1; `overhead_ci95` its 95 % interval.
        operators_ms: sum of the operators; the rest of `profiled_ms` is between them.
        operators: the slowest first.
    """

    label: str
    role: str
    precision: str
    sha256: str
    latency_ms: Milliseconds
    latency_rounds_ms: Rounds
    profiled_ms: Milliseconds
    profiled_rounds_ms: Rounds
    overhead: float
    overhead_ci95: tuple[float, float] | None
    operators_ms: Milliseconds
    operators: tuple[OperatorRecord, ...]
    quality: dict[str, Any]

    @property
    def roofline_ms(self) -> float | None:
        """Return the least time of all operators, None where one has none."""
        return _sum(operator.roofline_ms for operator in self.operators)

    @property
    def gain_ms(self) -> float | None:
        """Return what is left to gain of all operators, None where one has none."""
        return _sum(operator.gain_ms for operator in self.operators)

    @property
    def verdict(self) -> str:
        """Return what the measurement says of itself: clean, or what disturbed it."""
        return str(self.quality.get("verdict") or "no verdict")


def _sum(parts: Iterable[float | None]) -> float | None:
    found = list(parts)
    known = [part for part in found if part is not None]
    return sum(known) if len(known) == len(found) else None


@dataclass(frozen=True)
class ExplainRecord(Document):
    """The operators of every exported file, on the machine that `export --explain` ran on."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/explain@1"

    workload: WorkloadRecord
    threads: Count
    env: dict[str, Any]
    roofline: RooflineRecord
    files: tuple[ExplainedFile, ...]
    notes: tuple[str, ...] = ()
