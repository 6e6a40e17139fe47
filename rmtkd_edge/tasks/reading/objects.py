"""JSON: one object a line, a list of objects, or a table by columns as pandas writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from rmtkd_edge.config.recipe import Task
from rmtkd_edge.errors import DataError, some
from rmtkd_edge.tasks.reading.places import with_places
from rmtkd_edge.tasks.reading.text_files import open_text

KNOWN = "one object a line, a list of objects, or one object with a list for every column"


def read_objects(task: Task, path: Path) -> pa.Table:
    """Return the table of a JSON or JSON Lines file; a column of several types becomes text.

    Raises DataError with the line for what is no JSON, and for JSON that is no table.
    """
    with open_text(path, task.encoding) as handle:
        lines = enumerate(handle, 1)
        number, first = next(((n, line) for n, line in lines if line.strip()), (1, ""))
        first = first.removeprefix("\ufeff")
        if not first.strip():
            raise DataError(f"{path} is empty", KNOWN)
        if isinstance(_parsed(first), dict):
            number_second, second = next(((n, line) for n, line in lines if line.strip()), (0, ""))
            if second:
                return _objects(path, chain([(number, first), (number_second, second)], lines))
        text = first + "".join(line for _, line in lines)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        raise DataError(f"{path} line {number + err.lineno - 1}: {err.msg}", f"it must be {KNOWN}") from err
    except RecursionError as err:
        raise DataError(f"{path} is nested too deep for a table", f"it must be {KNOWN}") from err
    return with_places(_columns(path, _by_column(task, path, value)), path.name)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _objects(path: Path, lines: Iterable[tuple[int, str]]) -> pa.Table:
    rows, numbers = [], []
    for number, line in lines:
        if line.strip():
            row = _parsed(line)
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is no JSON object: {line.strip()[:60]}", f"it must be {KNOWN}")
            rows.append(row)
            numbers.append(number)
    return with_places(_columns(path, _of_rows(rows)), path.name, numbers, "line")


def _by_column(task: Task, path: Path, value: Any) -> Mapping[str, Sequence[Any]]:
    """Return the columns of what a whole JSON file holds."""
    if _is_rows(value):
        return _of_rows(value)
    if isinstance(value, dict) and value:
        parts = list(value.values())
        inner = [part for part in parts if _is_rows(part)]
        if len(inner) == 1:  # {"data": [...]}
            return _of_rows(inner[0])
        if all(isinstance(part, list) for part in parts):
            if {"columns", "data"} <= set(value):  # pandas' orient="split"
                return _of_rows([dict(zip(value["columns"], row, strict=False)) for row in value["data"]])
            if len({len(part) for part in parts}) == 1:
                return value
        if all(isinstance(part, dict) for part in parts):  # pandas' own default, or its orient="index"
            named = {*task.text, task.image, task.label} & set(value)
            return {name: list(column.values()) for name, column in value.items()} if named else _of_rows(parts)
        if not any(isinstance(part, list | dict) for part in parts):
            return _of_rows([value])
    shown = f"an object with {some(list(value))}" if isinstance(value, dict) else f"a {type(value).__name__}"
    what = "a list of something else than objects" if isinstance(value, list) else shown
    raise DataError(f"{path} holds {what}", f"it must be {KNOWN}")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    try:
        return pa.table({str(name): _array(values) for name, values in columns.items()})
    except (pa.ArrowException, ValueError) as err:
        raise DataError(f"{path} is no table: {err}", f"it must be {KNOWN}") from err


def _array(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.array([_text(value) for value in values], pa.large_string())


def _text(value: Any) -> str | None:
    if value is None or value != value:  # NaN
        return None
    return value if isinstance(value, str) else json.dumps(value)
