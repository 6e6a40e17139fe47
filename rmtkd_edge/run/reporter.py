"""Progress events of a stage; how they are shown is up to the caller.

A stage calls `reporter.event(kind, **facts)` and knows nothing about the rest. Kinds: stage, reading, data, step,
trial, validation, cycle_start, site, cycle_end, stop, verified, variant, note, runner; an unknown one is shown as it
is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class Reporter(Protocol):
    """What a stage reports to."""

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of something that happened."""


class SilentReporter:
    """Shows nothing."""

    def event(self, kind: str, **facts: Any) -> None:
        """Drop the event."""


# Tasks of other packages read data through functions that take no reporter, so that it reaches them this way.
_current: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Make a reporter the one that whatever runs inside reports to."""
    token = _current.set(reporter)
    try:
        yield
    finally:
        _current.reset(token)


def current_reporter() -> Reporter:
    """Return the reporter of the innermost `reporting`, a silent one outside."""
    return _current.get() or SilentReporter()
