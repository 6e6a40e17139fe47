"""Where a row stands in its file, kept with the row through every split, so that a message can name it."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PLACE = "rmtkd:place"  # the column, and the key of the schema's metadata


def with_places(
    table: pa.Table, where: str, numbers: Sequence[int] | None = None, unit: Literal["line", "row"] = "row"
) -> pa.Table:
    """Return a table whose rows know where they come from.

    Args:
        where: name of the file or split.
        numbers: of every row, counted in `unit`; from 0 when left out.
    """
    column = pa.array(np.arange(len(table)) if numbers is None else np.asarray(numbers, np.int64), pa.int64())
    return _with_files(table.append_column(PLACE, column), [(0, where, unit)])


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several files with places, one file after the other; columns that a file lacks are null.

    Raises:
        pyarrow.ArrowException: columns of one name have types that do not go together.
    """
    first, files, parts = 0, [], []
    for table in tables:
        numbers = table[PLACE]
        at = table.schema.get_field_index(PLACE)
        shifted = pc.add(numbers, pa.scalar(first, pa.int64()))
        parts.append(table.set_column(at, PLACE, shifted))
        files += [(first + begin, where, unit) for begin, where, unit in _files(table)]
        first += (pc.max(numbers).as_py() or 0) + 1
    return _with_files(pa.concat_tables(parts, promote_options="default"), files)


def place(table: pa.Table, row: int) -> str:
    """Return `train.csv line 26` for a row of a table, or `row 24` where nothing else is known."""
    files = _files(table)
    if not files or PLACE not in table.column_names:
        return f"row {row}"
    number = table[PLACE][row].as_py()
    first, where, unit = files[bisect_right(files, number, key=lambda file: file[0]) - 1]
    return f"{where} {unit} {number - first}"


def _files(table: pa.Table) -> list[tuple[int, str, str]]:
    """Return the files of a table, if it knows them: the first number of each, its name and what is counted in it."""
    raw = (table.schema.metadata or {}).get(PLACE.encode())
    return [] if raw is None else [(first, where, unit) for first, where, unit in json.loads(raw)]


def _with_files(table: pa.Table, files: Sequence[tuple[int, str, str]]) -> pa.Table:
    metadata = {**(table.schema.metadata or {}), PLACE.encode(): json.dumps(files).encode()}
    return table.replace_schema_metadata(metadata)


def columns(table: pa.Table) -> list[str]:
    """Return the names of the columns that the source has."""
    return [name for name in table.column_names if name != PLACE]
