"""Where a row stands in its file, kept with the row through every split, so that a message can name it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

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
    told = json.dumps({"where": where, "unit": unit}).encode()
    metadata = {**(table.schema.metadata or {}), PLACE.encode(): told}
    return table.append_column(PLACE, column).replace_schema_metadata(metadata)


def place(table: pa.Table, row: int) -> str:
    """Return `train.csv line 26` for a row of a table, or `row 24` where nothing else is known."""
    raw = (table.schema.metadata or {}).get(PLACE.encode())
    if raw is None or PLACE not in table.column_names:
        return f"row {row}"
    told = json.loads(raw)
    return f"{told['where']} {told['unit']} {table[PLACE][row].as_py()}"


def columns(table: pa.Table) -> list[str]:
    """Return the names of the columns that the source has."""
    return [name for name in table.column_names if name != PLACE]
