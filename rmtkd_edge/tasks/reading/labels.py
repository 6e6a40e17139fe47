"""Labels of a table: their names in label order, and the number of every row's label."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa

from rmtkd_edge.config.recipe import Task
from rmtkd_edge.errors import DataError

HIDDEN = -1  # what data sets put in place of labels that they keep to themselves
HIDDEN_HINT = (
    '--set task.test_split="" holds a share of train out; for data like GLUE --set task.test_split=validation '
    '--set task.validation_split="" reports the validation split and selects on a share of train'
)


def label_names(task: Task, train: pa.Table) -> list[str]:
    """Return the names of the labels in label order: the recipe's, else those in the file's metadata, else the values.

    Numbers are taken in their order, strings in the alphabet's. Raises DataError for fewer than two classes.
    """
    everything = list(dict.fromkeys(label_values(task, train, "train")))
    values = [v for v in everything if v is not None and (v != HIDDEN or str(v) in (task.labels or []))]
    if len(values) < 2:
        hidden = f"; {HIDDEN} counts as hidden unless task.labels names it" if HIDDEN in everything else ""
        raise DataError(
            f"the label column `{task.label}` of train holds fewer than two classes ({values}){hidden}",
            'set task.label to another column, task.train_split to a split with labels, or task.labels=["-1", "1"]',
        )
    names = task.labels or stored_names(train, task.label)
    if names is not None:
        return list(names)
    numbers = all(isinstance(v, int | float) for v in values)
    return [str(v) for v in (sorted(values) if numbers else sorted(str(v) for v in values))]


def label_values(task: Task, table: pa.Table, where: str) -> list[Any]:
    """Return the labels of all rows; 1.0 becomes 1. Raises DataError for NaN, infinity and nested values."""
    kind = table[task.label].type
    if pa.types.is_nested(kind):
        raise DataError(
            f"the label column `{task.label}` of {where} holds {kind}", "a label is one text or number a row"
        )
    values = table[task.label].to_pylist()
    bad = [i for i, v in enumerate(values) if isinstance(v, float) and not math.isfinite(v)]
    if bad:
        raise DataError(
            f"{len(bad)} of {len(values)} labels in {where} are not finite: row {bad[0]} has {values[bad[0]]}",
            "fill or drop these rows",
        )
    return [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]


def stored_names(table: pa.Table, column: str) -> list[str] | None:
    """Return the names that `datasets` keeps in the metadata of a Parquet file, or None."""
    raw = (table.schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    feature = json.loads(raw).get("info", {}).get("features", {}).get(column, {})
    return feature.get("names") if isinstance(feature, dict) else None


def with_names(table: pa.Table, column: str, names: list[str]) -> pa.Table:
    """Return the table with the names of its labels in the metadata, as `datasets` writes them."""
    info = {"info": {"features": {column: {"names": list(names), "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"huggingface": json.dumps(info).encode()})


def label_numbers(task: Task, table: pa.Table, where: str, names: list[str]) -> np.ndarray:
    """Return the label of every row as its place in `names`, int64 (n,).

    A value is a name, or, where no name looks like a number, the place itself. Raises DataError naming the first other.
    """
    known: dict[str, int] = {name: i for i, name in enumerate(names)}
    if not any(name.lstrip("-").isdigit() for name in names):
        known |= {str(i): i for i in range(len(names)) if str(i) not in known}
    values = label_values(task, table, where)
    found = [known.get(str(v), HIDDEN) for v in values]
    bad = [i for i, place in enumerate(found) if place == HIDDEN]
    if bad:
        hidden = all(v == HIDDEN for v in values)
        raise DataError(
            f"{len(bad)} of {len(values)} labels in {where} are none of {names}: row {bad[0]} has {values[bad[0]]!r}"
            + (" (all are: a split whose labels are hidden)" if hidden else ""),
            HIDDEN_HINT if hidden and where == "test" else f"set task.labels, task.label or task.{where}_split",
        )
    return np.array(found, dtype=np.int64)
