"""Rows whose target is a number: scores, ratings, measurements."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.labels import HIDDEN, HIDDEN_HINT, number_of
from rmtkd_edge.tasks.reading.places import place

CLASSES = "set task.label to a column of numbers; for classes task.kind = text-classification"
LARGE = 20.0  # a target that a model, whose outputs start near 0, takes long to reach at the usual learning rates


def numbers(task: Task, table: pa.Table, where: str) -> np.ndarray:
    """Return the number of every row, float32 (n,).

    Raises:
        DataError: a value is no finite number, with the place of the first, or all rows have the same.
    """
    column = table[task.label]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        read = [None if text is None else number_of(text.strip()) for text in column.to_pylist()]
        values = np.array(read, np.float64)  # NaN for None
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64()).to_numpy()
    else:
        raise DataError(f"the label column `{task.label}` of {where} holds {kind}, and not numbers", CLASSES)
    with np.errstate(over="ignore"):
        found: np.ndarray = values.astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(found))
    if len(odd):
        first = column[odd[0]].as_py()
        told = "is empty" if first is None else f"has {first!r}"
        raise DataError(
            f"{len(odd)} of {len(values)} values of `{task.label}` in {where} are no finite numbers: "
            f"{place(table, odd[0])} {told}",
            f"fill or drop these rows, or {CLASSES}",
        )
    if found.min() == found.max():
        hidden = where == "test" and found[0] == HIDDEN
        raise DataError(
            f"all {len(found)} values of `{task.label}` in {where} are {found[0]:g}: no model can be told from another",
            HIDDEN_HINT if hidden else f"set task.label to another column, or bring another {where} split",
        )
    return found


def describe_numbers(values: np.ndarray, where: str) -> str:
    """Return a line on the range of numbers, which says so where it is a bad one to learn."""
    told = (
        f"numbers of {where} from {values.min():g} to {values.max():g}, mean {values.mean():.4g}, standard deviation "
        f"{values.std():.4g}"
    )
    if np.abs(values).max() > LARGE:
        told += "; outputs start near 0: divide numbers as large as these, or training takes long"
    return told
