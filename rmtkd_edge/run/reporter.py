"""Progress events of a stage; how they are shown is up to the caller.

A stage calls `reporter.event(kind, **facts)` and knows nothing about the rest. Kinds: stage, data, step, trial,
validation, cycle_start, site, cycle_end, stop, verified, variant, note, runner; an unknown one is shown as it is.
"""

from __future__ import annotations

from typing import Any, Protocol


class Reporter(Protocol):
    """What a stage reports to."""

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of something that happened."""


class SilentReporter:
    """Shows nothing."""

    def event(self, kind: str, **facts: Any) -> None:
        """Drop the event."""
