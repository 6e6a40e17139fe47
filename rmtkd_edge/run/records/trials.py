"""compress/cycles/NNN/trials.json: the widths that an allocation has compared so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Document
from rmtkd_edge.run.records.cycle import JobRecord


@dataclass(frozen=True)
class Trial:
    """A closed form at new widths by site.

    Attributes:
        divergence: the task's mean divergence of its outputs from those before the cut; None where they are not
            finite.
    """

    widths: dict[str, int]
    divergence: float | None


@dataclass(frozen=True)
class TrialsRecord(Document):
    """The trials of a cycle, in the order in which they were made."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/trials@1"

    job: JobRecord
    trials: tuple[Trial, ...]
