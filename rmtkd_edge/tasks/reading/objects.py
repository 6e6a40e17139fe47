"""JSON: one object a line, a list of objects, or a table by columns as pandas writes it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, some
from rmtkd_edge.run.records.base import DEEPEST, LARGEST, is_deeper
from rmtkd_edge.tasks.reading.places import with_places
from rmtkd_edge.tasks.reading.progress import tell_count
from rmtkd_edge.tasks.reading.text_files import lines_of, open_text

KNOWN = "one object a line, a list of objects, or one object with a list for every column"
CHUNK = 65_536  # rows that are held as Python objects


def read_objects(task: Task, path: Path) -> pa.Table:
    """Return the table of a JSON or JSON Lines file; a column of several types becomes text.

    Raises DataError with the line for what is no JSON, for JSON that is no table, and for JSON that is not one object a
    line and too large to be held whole.
    """
    with open_text(path, task.encoding) as handle:
        lines = enumerate(lines_of(handle, path), 1)
        number, first = next(((n, line) for n, line in lines if line.strip()), (1, ""))
        first = first.removeprefix("\ufeff")
        if not first.strip():
            raise DataError(f"{path} is empty", KNOWN)
        if isinstance(_parsed(first), dict):
            number_second, second = next(((n, line) for n, line in lines if line.strip()), (0, ""))
            if second:
                return _objects(path, chain([(number, first), (number_second, second)], lines))
        text = _whole(path, first, (line for _, line in lines))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        raise DataError(f"{path} line {number + err.lineno - 1}: {err.msg}", f"it must be {KNOWN}") from err
    except ValueError as err:
        raise DataError(f"{path}: {err}", f"it must be {KNOWN}") from err
    except RecursionError as err:
        raise _too_deep(path) from err
    if is_deeper(value, DEEPEST):
        raise _too_deep(path)
    return with_places(_table(path, [_by_column(task, path, value)]), path.name)


def _whole(path: Path, first: str, rest: Iterable[str]) -> str:
    """Return the text of a file that is one value."""
    found, size = [first], len(first)
    for line in rest:
        found.append(line)
        size += len(line)
        if size > LARGEST:
            raise DataError(
                f"{path} is one JSON value of more than {LARGEST:,} characters, which would have to be held whole",
                "write one object a line, and name it .jsonl",
            )
    return "".join(found)


def _too_deep(path: Path) -> DataError:
    return DataError(f"{path} is nested too deep for a table", f"it must be {KNOWN}")


def _parsed(line: str) -> Any:
    """Return what a line holds, None where that is no JSON, or none that a row could be."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return None if line.count("[") + line.count("{") > DEEPEST and is_deeper(found, DEEPEST) else found


def _objects(path: Path, lines: Iterable[tuple[int, str]]) -> pa.Table:
    """Return the table of a file with one object a line, of which some are held as Python objects at a time."""
    chunks: list[Mapping[str, Sequence[Any]]] = []
    rows: list[dict[str, Any]] = []
    numbers = array("q")
    for number, line in lines:
        if not line.strip():
            continue
        row = _parsed(line)
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} is no JSON object: {line.strip()[:60]}", f"it must be {KNOWN}")
        rows.append(row)
        numbers.append(number)
        if len(rows) == CHUNK:
            chunks.append({name: _array(values) for name, values in _of_rows(rows).items()})
            rows = []
            tell_count(f"rows of {path.name} read", len(numbers), None)
    return with_places(_table(path, [*chunks, _of_rows(rows)]), path.name, numbers, "line")


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
            named = {*task.text, task.image, task.label, *task.label_columns} & set(value)
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


def _table(path: Path, chunks: Sequence[Mapping[str, Sequence[Any]]]) -> pa.Table:
    """Return the table of the columns of several chunks, null where a chunk has no such column."""
    names = dict.fromkeys(name for chunk in chunks for name in chunk)
    try:
        lengths = [max((len(values) for values in chunk.values()), default=0) for chunk in chunks]
        columns = {
            str(name): _joined(
                [
                    _array(chunk[name]) if name in chunk else pa.nulls(n)
                    for chunk, n in zip(chunks, lengths, strict=True)
                ]
            )
            for name in names
        }
        return pa.table(columns)
    except (pa.ArrowException, ValueError) as err:
        raise DataError(f"{path} is no table: {err}", f"it must be {KNOWN}") from err


def _joined(parts: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Return one column; parts of types that have none in common become text, as values of one part do."""
    tables = [pa.table({"": part}) for part in parts]
    try:
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except (pa.ArrowException, TypeError):
        return pa.chunked_array([pa.array(map(_text, part.to_pylist()), pa.large_string()) for part in parts])


def _array(values: Sequence[Any]) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.array(map(_text, values), pa.large_string())


def _text(value: Any) -> str | None:
    if value is None or value != value:  # NaN
        return None
    return value if isinstance(value, str) else json.dumps(value)
