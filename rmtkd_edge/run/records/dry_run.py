"""What `compress --dry-run` found: the data, and what a compression of the recipe would do. It is shown, never kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Amount, Count, Document
from rmtkd_edge.run.records.data import DataSummary
from rmtkd_edge.run.records.scores import Scores


@dataclass(frozen=True)
class TeacherForecast:
    """The model that would be compressed.

    Attributes:
        scores: on the first validation rows, as many as fit into some seconds; None where it is not trained yet.
        validation_rows: that there are.
        training: why it would be trained first; empty where it would not.
        fault: why compress would refuse it, empty where it would not; `hint` is what can be done then.
    """

    source: str
    parameters: Count
    scores: Scores | None
    validation_rows: Count
    training: str
    fault: str
    hint: str


@dataclass(frozen=True)
class SiteForecast:
    """A width that the recipe lets be cut (of one head where there are several).

    Attributes:
        least: the narrowest that it may become.
        parameters: that go with it where it alone is cut to that.
    """

    name: str
    kind: str
    heads: Count
    width: Count
    least: Count
    parameters: Count


@dataclass(frozen=True)
class ShapeForecast:
    """The student that would meet a target with widths for one device.

    Attributes:
        profiles: hardware profiles whose widths are multiples of `multiple`; empty where none is named.
        removed: share of the original's parameters that is gone.
        ms: predicted latency of one input by profile, and `teacher_ms` the original's, where curves are known.
    """

    profiles: tuple[str, ...]
    multiple: Count
    widths: dict[str, Count]
    parameters: Count
    removed: float
    fp32_bytes: Count
    int8_bytes: Count | None
    ms: dict[str, Amount]
    teacher_ms: dict[str, Amount]


@dataclass(frozen=True)
class TargetForecast:
    """One target, or the recipe's budgets.

    Attributes:
        aim: in words.
        how: how the widths were found.
        fault: why it cannot be met, empty where it can; `hint` is what can be changed then.
        shapes: of the students, of the smallest ones where the target cannot be met; none where spectra alone decide.
    """

    aim: str
    how: str
    fault: str
    hint: str
    shapes: tuple[ShapeForecast, ...]


@dataclass(frozen=True)
class CostForecast:
    """Seconds and bytes that the compression would take here: an estimate.

    Attributes:
        cycles: at most; a cycle is trained once.
        steps: of a cycle.
        step_seconds: of the first cycle's steps and the last one's, measured; empty where nothing is trained.
        seconds: by part: `teacher`, `search`, `training`, `validation`.
        memory_bytes: peak of the process; None where the system does not tell.
    """

    cycles: Count
    steps: Count
    step_seconds: tuple[Amount, ...]
    seconds: dict[str, Amount]
    memory_bytes: Count | None

    @property
    def total(self) -> float:
        """Return all seconds."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class DryRun(Document):
    """What was found.

    Attributes:
        graph: that the sizes are of.
        without_curves: hardware profiles whose latency nothing predicts.
        notes: what a reader must know, beyond the data's own notes.
    """

    SCHEMA: ClassVar[str] = "rmtkd-edge/dry-run@1"

    data: DataSummary
    teacher: TeacherForecast
    sites: tuple[SiteForecast, ...]
    targets: tuple[TargetForecast, ...]
    cost: CostForecast
    graph: str
    without_curves: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def faults(self) -> tuple[tuple[str, str], ...]:
        """Return why the compression cannot do what the recipe asks for, each with what can be changed."""
        of_targets = ((target.fault, target.hint) for target in self.targets)
        return tuple(found for found in ((self.teacher.fault, self.teacher.hint), *of_targets) if found[0])
