"""CSV and TSV: every cell is text, whatever it looks like, and every row knows its line."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, some
from rmtkd_edge.tasks.reading.places import with_places
from rmtkd_edge.tasks.reading.progress import tell_count
from rmtkd_edge.tasks.reading.text_files import kind_of, lines_of, open_text

DELIMITERS = (",", ";", "\t", "|")
LARGEST_CELL = 2**26  # characters; the csv module's own limit is 131,072
CHUNK = 65_536  # rows that are held as Python objects
QUOTES = 'double the quotes inside a quoted cell ("" for "), or save the file as .jsonl or .parquet'


def read_delimited(task: Task, path: Path) -> pa.Table:
    """Return the table of a CSV or TSV file, all text, null where a cell is empty.

    The delimiter is the recipe's, else a tab for .tsv, else what gives the header the recipe's columns. Rows without
    any value at the end are left out, as spreadsheets leave them there.

    Raises:
        DataError: another number of cells than the header has, or quotes that do not match, with the line.
    """
    csv.field_size_limit(LARGEST_CELL)
    with open_text(path, task.encoding) as handle:
        rest = lines_of(handle, path)
        before, first = next(((n, line) for n, line in enumerate(rest) if line.strip()), (0, ""))
        first = first.removeprefix("\ufeff")
        delimiter, lines = _delimiter(task, path, first), chain([first], rest)
        if first.lower().startswith("sep=") and task.delimiter is None:  # Excel's own way to say it
            before, delimiter, lines = before + 1, first[4:5], rest  # type: ignore[assignment]
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            if not any(name.strip() for name in header):
                raise DataError(f"{path} has no header", f"its first line names the columns: text{delimiter}label")
            while header and not header[-1].strip():
                header.pop()
            return _table(path, header, _numbered(rows, before))
        except csv.Error as err:
            raise DataError(f"{path} line {before + rows.line_num}: {err}", QUOTES) from err


def _delimiter(task: Task, path: Path, header: str) -> str:
    if task.delimiter is not None:
        return task.delimiter
    if kind_of(path) == ".tsv":
        return "\t"
    wanted = {*task.text, task.image, task.label, *task.label_columns}

    def fits(delimiter: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=delimiter), [])
        return len(wanted.intersection(names)), len(names)

    return max(DELIMITERS, key=fits)  # of equal ones the first


def _numbered(rows: Any, before: int) -> Iterator[tuple[int, list[str]]]:
    """Yield every row of a csv reader with the number of its first line; blank lines are none.

    Args:
        before: lines of the file that the reader has not seen.
    """
    last = rows.line_num
    for row in rows:
        if row:
            yield before + last + 1, row
        last = rows.line_num


def _table(path: Path, header: Sequence[str], rows: Iterator[tuple[int, list[str]]]) -> pa.Table:
    chunks: list[list[pa.Array]] = []
    block: list[list[str]] = []
    numbers = array("q")
    width, empty = len(header), 0
    for number, row in rows:
        if len(row) > width and not any(row[width:]):
            del row[width:]
        if len(row) != width:
            raise DataError(
                f"{path} line {number} has {len(row)} cells, its header {width} ({some(header)})",
                "quote cells that hold the delimiter, or set task.delimiter",
            )
        block.append(row)
        numbers.append(number)
        empty = 0 if any(row) else empty + 1
        if len(block) == CHUNK and not empty:
            chunks.append(_arrays(block))
            block = []
            tell_count(f"rows of {path.name} read", len(numbers), None)
    if empty:
        del block[-empty:], numbers[-empty:]
    chunks.append(_arrays(block) or [pa.array([], pa.large_string()) for _ in header])
    columns = [pa.chunked_array([chunk[i] for chunk in chunks]) for i in range(width)]
    return with_places(pa.Table.from_arrays(columns, names=list(header)), path.name, numbers, "line")


def _arrays(block: Sequence[Sequence[str]]) -> list[pa.Array]:
    return [pa.array([cell or None for cell in column], pa.large_string()) for column in zip(*block, strict=True)]
