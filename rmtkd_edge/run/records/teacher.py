"""compress/teacher/teacher.json: where the teacher came from and what it scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Document
from rmtkd_edge.run.records.scores import Scores


@dataclass(frozen=True)
class TeacherRecord(Document):
    """The teacher of a run; `trained` says whether the run trained it or took it as it was."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/teacher@2"

    parameters: int
    source: str
    trained: bool
    seconds: float
    validation: Scores
    test: Scores | None
