"""The section on the data: what was read, what was not, and the first rows as the model saw them."""

from __future__ import annotations

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, NoteBlock, Section, TableBlock, text_row
from rmtkd_edge.report.records import RunFacts
from rmtkd_edge.run.records.data import DataSummary, counted


def data_section(run: RunFacts, prefix: str) -> Section:
    """Return sources, splits and first rows."""
    if run.data is None:
        blocks: tuple[Block, ...] = (NoteBlock("The run holds no record of the data that it read.", tone="missing"),)
    else:
        unused = [NoteBlock(f"{text.title(run.data.not_used)}.", tone="warn")] if run.data.not_used else []
        blocks = (source_table(run.data), *unused, split_table(run.data), row_table(run.data))
    return Section(f"{prefix}data", "Data", blocks)


def source_table(data: DataSummary) -> TableBlock:
    """Return the files, folders or splits that were read."""
    rows = [
        text_row(s.name, s.role, text.count(s.rows), counted(s.sizes) or "–", counted(s.modes) or "–")
        for s in data.sources
    ]
    columns = ("Read", "As", "Rows", "Image sizes", "Image modes")
    return TableBlock("What was read.", columns, tuple(rows), frozenset({1, 3, 4}))


def split_table(data: DataSummary) -> TableBlock:
    """Return the rows of every split, by label, and how many were cut."""
    rows = []
    for name, split in data.splits.items():
        cut = "–" if split.cut is None else text.percent(split.cut / max(1, split.rows))
        rows.append(text_row(name, text.count(split.rows), counted(split.labels) or "–", cut))
    caption = "Rows of each split."
    if data.max_length is not None:
        caption += f" Texts that fill {data.max_length} tokens were cut there, unless they just fit."
    return TableBlock(caption, ("Split", "Rows", "By label", "Cut"), tuple(rows), frozenset({2}))


def row_table(data: DataSummary) -> TableBlock:
    """Return the first rows of train as the model saw them."""
    rows = [text_row(str(i), row.label, row.seen) for i, row in enumerate(data.first_rows, 1)]
    caption = "The first rows of train as the model saw them."
    return TableBlock(caption, ("Row", "Label", "Seen"), tuple(rows), frozenset({1, 2}))
