"""Rows that have any number of labels: lists, texts with a separator, or a column of 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, some
from rmtkd_edge.tasks.reading.labels import HIDDEN, HIDDEN_HINT, label_names, label_numbers, label_values, number_of
from rmtkd_edge.tasks.reading.places import PLACE, place

WAYS = (
    'a row\'s labels are a list, or a text with task.label_separator = "|" (or another) between them; a column of 0 '
    "and 1 for each label: task.label_columns = [...]; one label a row: task.kind = text-classification"
)
NUMBERS = {"false": 0.0, "true": 1.0}


def label_set_names(task: Task, train: pa.Table) -> list[str]:
    """Return the names of the labels in label order; raise DataError where train has fewer than two."""
    return list(task.label_columns) or label_names(task, single_labels(task, train, "train")[0])


def label_sets(task: Task, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
    """Return which of `names` every row has, bool (n, labels).

    Raises:
        DataError: a label is none of `names`, a value is none, or lists hold a 0 or 1 for every label.
    """
    if task.label_columns:
        return np.stack([_zeros_and_ones(task, table, where, column) for column in task.label_columns], axis=1)
    labels, rows = single_labels(task, table, where)
    found: np.ndarray = np.zeros((len(table), len(names)), bool)
    found[rows, label_numbers(task, labels, where, names)] = True
    if found.sum() < len(rows) and {str(v) for v in label_values(task, labels, where).values} <= {"0", "1"}:
        raise DataError(
            f"the lists in `{task.label}` of {where} hold 0 and 1 again and again, as if at a place for every label",
            "write the names of the labels that a row has",
        )
    return found


def single_labels(task: Task, table: pa.Table, where: str) -> tuple[pa.Table, np.ndarray]:
    """Return a table with a row for every label of every row, which knows its place, and the row's number (labels,)."""
    lists = _lists(task, table[task.label], where)
    if bad := lists.null_count:
        first = np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0]
        raise DataError(
            f"{bad} of {len(table)} values of `{task.label}` in {where} are missing (first: {place(table, first)})",
            "write an empty list for a row without labels, or drop these rows",
        )
    rows = pc.list_parent_indices(lists)
    columns = {task.label: pc.list_flatten(lists)}
    if PLACE in table.column_names:
        columns[PLACE] = table[PLACE].take(rows)
    labels = pa.table(columns).replace_schema_metadata(table.schema.metadata)
    return labels, rows.to_numpy()


def _lists(task: Task, column: pa.ChunkedArray, where: str) -> Any:
    """Return the labels of every row as an array of lists; raise DataError for values of other kinds."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return column.cast(pa.large_list(kind.value_type)).combine_chunks()
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text and task.label_separator is not None:
        separated = [_parts(text, task.label_separator) for text in column.to_pylist()]
        return pa.array(separated, pa.large_list(pa.large_string()))
    shown = next((value.as_py() for value in column if value.is_valid), None)
    raise DataError(f"the label column `{task.label}` of {where} holds {kind}, such as {some([shown])}", WAYS)


def _parts(text: str | None, separator: str) -> list[str]:
    """Return the labels of a text without the spaces around them; an empty cell has none."""
    return [part.strip() for part in (text or "").split(separator) if part.strip()]


def _zeros_and_ones(task: Task, table: pa.Table, where: str, column: str) -> np.ndarray:
    """Return which rows have 1 in a column of 0 and 1, bool (n,)."""
    labels = label_values(task.model_copy(update={"label": column}), table, where)
    numbers = [NUMBERS.get(str(v).strip().casefold(), number_of(str(v))) for v in labels.values]
    odd = np.flatnonzero(np.array([n not in (0, 1) for n in numbers], bool)[labels.rows])
    if len(odd):
        first = labels.values[labels.rows[odd[0]]]
        told = "is empty" if first is None else f"has {first!r}"
        hidden = where == "test" and all(n == HIDDEN for n in numbers)
        raise DataError(
            f"{len(odd)} of {len(table)} values of `{column}` in {where} are neither 0 nor 1: "
            f"{place(table, odd[0])} {told}",
            HIDDEN_HINT if hidden else "fill or drop these rows; labels in one column: task.label in place of columns",
        )
    return np.array([n == 1 for n in numbers], bool)[labels.rows]
