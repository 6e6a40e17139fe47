"""What the report knows of a run: the documents of the run directory, and for every gap the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmtkd_edge.run import layout
from rmtkd_edge.run.records.compress import CompressRecord, StudentRecord
from rmtkd_edge.run.records.cycle import CycleRecord
from rmtkd_edge.run.records.data import DataSummary
from rmtkd_edge.run.records.explain import ExplainRecord
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import MeasurementRecord, ProfileRecord, WorkloadRecord
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.teacher import TeacherRecord

Spectra = Mapping[tuple[int, str], tuple[float, ...]]  # by cycle and site: eigenvalues of all heads, descending


@dataclass(frozen=True)
class Quantity:
    """One figure in the unit that its name says; where `value` is None, `why` says why."""

    value: float | None
    why: str = ""
    source: str = ""


def quantity(part: Any, name: str, source: str = "") -> Quantity:
    """Return a figure of a record, with the reason under the same name and `_why`, or under `why`."""
    value = getattr(part, name)
    if value is not None:
        return Quantity(float(value), "", source)
    why = getattr(part, f"{name}_why", None) or getattr(part, "why", None) or "no reason recorded"
    return Quantity(None, why, source)


@dataclass(frozen=True)
class Missing:
    """A stage that has not left anything: what is missing and the command that creates it."""

    stage: str
    why: str
    command: str


@dataclass(frozen=True)
class Compression:
    """What compress left: its result, or only the cycles of one that did not finish (`missing` says so then)."""

    missing: Missing | None
    record: CompressRecord | None
    teacher: TeacherRecord
    cycles: tuple[CycleRecord, ...]
    spectra: Spectra

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record.method if self.record else layout.DEFAULT_METHOD

    @property
    def task(self) -> str:
        """The data set's name, empty until compress has finished."""
        return self.record.task.name if self.record else ""

    @property
    def stop(self) -> str:
        """The rule that ended the loop, in words; empty until it has ended."""
        return self.record.stop.replace("_", " ") if self.record else ""

    @property
    def student(self) -> StudentRecord | None:
        """The student; of an unfinished run that of the last accepted cycle."""
        if self.record:
            return self.record.student
        kept = [cycle for cycle in self.cycles if cycle.accepted]
        return StudentRecord(kept[-1].parameters_after, kept[-1].after, None) if kept else None

    @property
    def floor(self) -> float | None:
        """The primary metric on validation under which a cycle is rolled back; None where any value is allowed."""
        return self.record.floor if self.record and self.record.floor > 0 else None


def reported(model: TeacherRecord | StudentRecord) -> Scores:
    """Return the scores that are reported: of the test split, else of validation."""
    return model.test or model.validation


@dataclass(frozen=True)
class Profile:
    """What was measured on one device."""

    record: ProfileRecord

    @property
    def name(self) -> str:
        """The device's name."""
        return self.record.profile

    @property
    def results(self) -> tuple[MeasurementRecord, ...]:
        """All measurements."""
        return self.record.results

    @property
    def workloads(self) -> tuple[WorkloadRecord, ...]:
        """The workloads that were run, single stream and small ones first."""
        found = {r.workload.key: r.workload for r in self.results}
        return tuple(sorted(found.values(), key=lambda w: (not single_stream(w), w.batch, w.seq or 0)))

    @property
    def labels(self) -> tuple[str, ...]:
        """The models that were run: originals first, otherwise as recorded."""
        return tuple(dict.fromkeys(r.label for r in sorted(self.results, key=lambda r: r.role == "candidate")))

    def find(self, label: str, workload: WorkloadRecord) -> MeasurementRecord | None:
        """Return the measurement of a model under a workload, or None."""
        same = (r for r in self.results if r.label == label and r.workload.key == workload.key)
        return next(same, None)


def single_stream(workload: WorkloadRecord) -> bool:
    """Return whether requests are answered one at a time."""
    return workload.scenario in (None, "single_stream")


def energy_source(measurement: MeasurementRecord) -> str:
    """Return how the energy was come by, and the meter."""
    energy = measurement.energy
    return energy.kind if energy.kind == "unavailable" else f"{energy.kind}, {energy.meter}"


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
    data: DataSummary | None
    compression: Compression | Missing
    exported: ExportRecord | Missing
    larger: dict[str, ExportRecord | Missing]  # students on the way, by name, the largest first
    baseline: ExportRecord | Missing
    profiles: tuple[Profile, ...]
    no_profile: Missing | None
    explained: ExplainRecord | Missing | None  # None: nobody asked for it

    @property
    def method(self) -> str:
        """The compression method, which names the compressed model."""
        return layout.DEFAULT_METHOD if isinstance(self.compression, Missing) else self.compression.method

    @property
    def timed(self) -> tuple[Profile, ...]:
        """The devices whose times mean something: those that were not emulated."""
        return tuple(profile for profile in self.profiles if not profile.record.emulated)
