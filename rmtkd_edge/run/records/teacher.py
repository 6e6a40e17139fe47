"""compress/teacher/teacher.json: where the teacher came from and what it scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Count, Document
from rmtkd_edge.run.records.scores import Scores


@dataclass(frozen=True)
class HeldOutRecord:
    """The rows of train that the run which trained a teacher validated on: the seed that drew them, their digest."""

    seed: Count
    digest: str


@dataclass(frozen=True)
class TeacherRecord(Document):
    """The teacher of a run.

    Attributes:
        trained: whether the run trained it or took it as it was.
        held_out: None where validation was a split of its own, or nothing is known of another run that trained it.
    """

    SCHEMA: ClassVar[str] = "rmtkd-edge/teacher@2"

    parameters: int
    source: str
    trained: bool
    seconds: float
    validation: Scores
    test: Scores | None
    held_out: HeldOutRecord | None = None
