"""What is said while many rows are read, so that nobody waits before a silent terminal."""

from __future__ import annotations

from rmtkd_edge.run.reporter import current_reporter

MANY = 20_000  # rows; fewer are read in seconds


def tell_source(name: str, rows: int, role: str) -> None:
    """Say how many rows a source has, before they are made into inputs, where that takes a while."""
    if rows >= MANY:
        current_reporter().event("reading", text=f"{name}: {rows:,} rows as {role}")


def tell_count(text: str, done: int, total: int | None) -> None:
    """Say how far the reading of many rows is; `total` is None where it is not known yet."""
    if (done if total is None else total) >= MANY:
        current_reporter().event("reading", text=text, done=done, total=total)
