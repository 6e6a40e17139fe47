"""compress/result.json: a finished compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Document
from rmtkd_edge.run.records.cycle import CycleRecord
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.teacher import TeacherRecord
from rmtkd_edge.run.records.vocabulary import VocabularyRecord


@dataclass(frozen=True)
class TaskRecord:
    """The task: `name` is the data set's, `kind` the task's, `metric` the primary one."""

    name: str
    kind: str
    metric: str
    labels: tuple[str, ...]
    train_rows: int
    validation_rows: int
    test_rows: int | None


@dataclass(frozen=True)
class StudentRecord:
    """The compressed model."""

    parameters: int
    validation: Scores
    test: Scores | None


@dataclass(frozen=True)
class FamilyMember:
    """One student of a run.

    Attributes:
        name: the target that it met, which names its folder; empty for the run's own student, the smallest.
        reduction: share of the teacher's parameters that is gone.
        drop: teacher minus student, of the primary metric on validation.
        ranks: width of every site by name.
    """

    name: str
    student: StudentRecord
    reduction: float
    drop: float
    ranks: dict[str, int]


@dataclass(frozen=True)
class CompressRecord(Document):
    """What compress found.

    Attributes:
        stop: name of the rule that ended the loop.
        reduction: share of the teacher's parameters that is gone.
        drop: teacher minus student, of the primary metric on validation.
        floor: the primary metric on validation under which a cycle is rolled back.
        ranks: width of every site of the student by name.
        seconds: of all sessions that the run took.
        targets: shares of the parameters that were aimed at in turn.
        larger: students on the way to the last target, the largest first.
        vocabulary: None where students read all tokens that the teacher does.
    """

    SCHEMA: ClassVar[str] = "rmtkd-edge/compress@2"

    method: str
    title: str
    stop: str
    task: TaskRecord
    teacher: TeacherRecord
    student: StudentRecord
    reduction: float
    drop: float
    floor: float
    cycles: tuple[CycleRecord, ...]
    ranks: dict[str, int]
    seed: int
    one_shot: bool
    processes: int
    device: str
    seconds: float
    notes: tuple[str, ...]
    targets: tuple[float, ...] = ()
    larger: tuple[FamilyMember, ...] = ()
    vocabulary: VocabularyRecord | None = None

    @property
    def family(self) -> tuple[FamilyMember, ...]:
        """Return all students, the largest first; the last one is the run's own."""
        return (*self.larger, FamilyMember("", self.student, self.reduction, self.drop, self.ranks))

    @property
    def missed(self) -> tuple[float, ...]:
        """Return the targets that no student meets."""
        return tuple(target for target in self.targets if target > self.reduction)
