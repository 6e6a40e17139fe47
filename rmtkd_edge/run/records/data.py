"""compress/data.json: what was read of the data, and the first rows as a model sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Count, Document

SHOWN = 10  # labels, sizes or modes in a line


@dataclass(frozen=True)
class SourceSummary:
    """A file, folder or split that was read, before anything is held out of it.

    Attributes:
        role: `train`, `validation` or `test`.
        sizes: images by their size, `WIDTHxHEIGHT`, before any were resized; empty for other data.
        modes: images by Pillow's mode, such as `RGB` or `L`; empty for other data.
    """

    role: str
    name: str
    rows: Count
    sizes: dict[str, Count]
    modes: dict[str, Count]


@dataclass(frozen=True)
class SplitSummary:
    """The rows of one split.

    Attributes:
        labels: rows by label, empty where rows have none.
        cut: sequences that fill `max_length` tokens: they were cut there, unless they just fit. None for other data.
    """

    rows: Count
    labels: dict[str, Count]
    cut: Count | None


@dataclass(frozen=True)
class RowSummary:
    """One row: its label, and in words what a model sees of it."""

    label: str
    seen: str


@dataclass(frozen=True)
class DataSummary(Document):
    """What was read.

    Attributes:
        name: the data set's.
        kind: the task's.
        max_length: tokens that sequences are cut off at, None for other data.
        not_used: a line on what was there and was not read; empty where all of it was.
        first_rows: of train.
        notes: what was done about odd rows.
    """

    SCHEMA: ClassVar[str] = "rmtkd-edge/data@2"

    name: str
    kind: str
    sources: tuple[SourceSummary, ...]
    splits: dict[str, SplitSummary]
    max_length: Count | None
    not_used: str
    first_rows: tuple[RowSummary, ...]
    notes: tuple[str, ...]


def describe(summary: DataSummary) -> list[str]:
    """Return the summary in lines for the user, without its notes."""
    lines = [f"{summary.name}: {summary.kind}"]
    for source in summary.sources:
        facts = [f"{source.rows:,} rows as {source.role}"]
        facts += [f"sizes {counted(source.sizes)}"] if source.sizes else []
        facts += [f"modes {counted(source.modes)}"] if source.modes else []
        lines.append(f"read {source.name}: {'; '.join(facts)}")
    lines += [summary.not_used] if summary.not_used else []
    for name, split in summary.splits.items():
        facts = [f"{split.rows:,} rows", *([f"labels {counted(split.labels)}"] if split.labels else [])]
        if split.cut is not None:
            share = split.cut / max(1, split.rows)
            facts.append(f"{split.cut:,} ({share:.1%}) fill the {summary.max_length} tokens and may be cut")
        lines.append(f"{name}: {'; '.join(facts)}")
    return lines + [f"row {i} of train, {row.label}: {row.seen}" for i, row in enumerate(summary.first_rows, 1)]


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by name in words, as they come; of many the first ten and how many there are."""
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:SHOWN])
    return shown + (f", ... ({len(counts)} in all)" if len(counts) > SHOWN else "")
