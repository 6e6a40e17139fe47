"""tuning/NAME.json: session settings that were tried on a device, with raw times, and those that were kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rmtkd_edge.run.records.base import Amount, Count, Document
from rmtkd_edge.run.records.profile import Milliseconds, WorkloadRecord


@dataclass(frozen=True)
class SessionRecord:
    """Options of an onnxruntime session; graph_level is `basic`, `extended` or `all`."""

    threads: Count
    spinning: bool
    graph_level: str
    arena: bool
    memory_pattern: bool
    io_binding: bool

    def __str__(self) -> str:
        parts = [f"{self.threads} thread{'' if self.threads == 1 else 's'}"]
        parts += ["spinning"] if self.spinning else ["no spinning"]
        parts += [] if self.graph_level == "all" else [f"graph level {self.graph_level}"]
        parts += [] if self.arena else ["no memory arena"]
        parts += [] if self.memory_pattern else ["no memory pattern"]
        parts += ["IO binding"] if self.io_binding else []
        return ", ".join(parts)


@dataclass(frozen=True)
class TrialRecord:
    """One set of settings, measured in turn with those of the profile.

    Attributes:
        name: what is changed; `profile` for the profile's own settings.
        confirms: of the second measurement, which the choice is made by.
        rounds_ms: every call, round by round.
        ratio: latency divided by that of the profile's settings, None for themselves; `ci95` its 95 % interval.
        verdict: what the measurement says of itself.
    """

    name: str
    confirms: bool
    session: SessionRecord
    p50_ms: Milliseconds
    rounds_ms: tuple[tuple[Milliseconds, ...], ...]
    ratio: Amount | None
    ci95: tuple[Amount, Amount] | None
    verdict: str

    @property
    def faster(self) -> bool:
        """Return whether it is clearly faster: its interval is below 1."""
        return self.ci95 is not None and self.ci95[1] < 1


@dataclass(frozen=True)
class TunedSession:
    """The settings that a file is fastest with on a device; `ratio` is None where nothing beat the profile's own."""

    session: SessionRecord
    model: str
    sha256: str
    workload: WorkloadRecord
    ratio: Amount | None
    ci95: tuple[Amount, Amount] | None

    def __str__(self) -> str:
        if self.ratio is None or self.ci95 is None:
            return f"{self.session}: no setting that was tried is clearly faster than the profile's"
        ends = f"{self.ci95[0]:.3f} to {self.ci95[1]:.3f}"
        return f"{self.session}: {self.ratio:.3f} of the time with the profile's settings (95 % interval {ends})"


@dataclass(frozen=True)
class TuningRecord(Document):
    """What `profile --tune` measured on one device."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/tuning@1"

    profile: str
    title: str
    env: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    chosen: TunedSession
    notes: tuple[str, ...] = ()
