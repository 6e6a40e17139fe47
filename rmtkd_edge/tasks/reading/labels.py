"""Labels of a table: their names in label order, and the number of every row's label."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, RunDirError, some
from rmtkd_edge.run.records.base import parse_json
from rmtkd_edge.tasks.reading.places import place

HIDDEN = -1  # what data sets put in place of labels that they keep to themselves
HIDDEN_HINT = (
    '--set task.test_split="" holds a share of train out; for data like GLUE --set task.test_split=validation '
    '--set task.validation_split="" reports the validation split and selects on a share of train'
)
UNCLASSED_HINT = (
    "set task.label to a column of classes, or task.kind = regression; where these are classes, name them: "
    "task.labels = [...]"
)
MISSING = ("nan", "na", "n/a", "null", "none", "nil", "-", "?")  # texts that other programs write for no value
FEW = 10  # classes that are always believed; of more, fewer than half the rows must be a class of their own


@dataclass(frozen=True)
class Labels:
    """The labels of a table: the different values in the order in which they come, and which of them each row has."""

    values: list[Any]
    rows: np.ndarray

    def counts(self) -> list[int]:
        """Return how many rows have each value."""
        return [int(n) for n in np.bincount(self.rows, minlength=len(self.values))]


def label_names(task: Task, train: pa.Table) -> list[str]:
    """Return the names of the labels in label order: the recipe's, else those in the file's metadata, else the values.

    Numbers are taken in their order, also where a file has them as text, and other texts in the alphabet's. Raises
    DataError for fewer than two classes, and for values that look like measurements or row numbers.
    """
    everything = label_values(task, train, "train").values
    values = [v for v in everything if v is not None and (str(v) != str(HIDDEN) or str(v) in (task.labels or []))]
    if len(values) < 2:
        hidden = f"; {HIDDEN} counts as hidden unless task.labels names it" if _any_hidden(everything) else ""
        raise DataError(
            f"the label column `{task.label}` of train holds fewer than two classes ({values}){hidden}",
            'set task.label to another column, task.train_split to a split with labels, or task.labels=["-1", "1"]',
        )
    names = task.labels or stored_names(train, task.label)
    if names is not None:
        return list(names)
    _refuse_unclassed(task, values, len(train))
    return [str(v) for v in _ordered(values)]


def _any_hidden(values: Iterable[Any]) -> bool:
    return any(str(v) == str(HIDDEN) for v in values)


def _ordered(values: Sequence[Any]) -> list[Any]:
    numbers = {v: v if isinstance(v, int | float) else _whole(v) for v in values}
    if None in numbers.values():
        return sorted(values, key=str)
    return sorted(values, key=lambda v: numbers[v] or 0)


def _whole(text: str) -> int | None:
    """Return the number that a text is when a number is written so: not 01, +1 or 1.0."""
    return int(text) if text.lstrip("-").isdecimal() and str(int(text)) == text else None


def number_of(text: str) -> float | None:
    """Return the finite number that a text is, however it is written."""
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def _refuse_unclassed(task: Task, values: Sequence[Any], rows: int) -> None:
    """Raise DataError for labels that are no classes: numbers with a fraction, or a value of its own for most rows."""
    numbers = [v if isinstance(v, int | float) else number_of(v) for v in values]
    if all(n is not None for n in numbers) and any(n != math.floor(n) for n in numbers if n is not None):
        raise DataError(
            f"the label column `{task.label}` holds numbers with fractions ({some(values)}): that looks like a "
            "regression, and this task gives one of several labels",
            UNCLASSED_HINT,
        )
    if len(values) > FEW and len(values) > rows / 2:
        raise DataError(
            f"the label column `{task.label}` holds {len(values):,} different values in {rows:,} rows "
            f"({some(values)}): that looks like row numbers, texts or a regression",
            UNCLASSED_HINT,
        )


def label_values(task: Task, table: pa.Table, where: str) -> Labels:
    """Return the labels of all rows; 1.0 becomes 1, and texts lose the spaces around them where the recipe says so.

    Raises DataError for NaN, infinity, and values that are neither texts nor numbers.
    """
    found = _plain(table[task.label], task, where).combine_chunks().dictionary_encode("encode")
    values, rows = found.dictionary.to_pylist(), found.indices.to_numpy(zero_copy_only=False)
    bad = [i for i, v in enumerate(values) if isinstance(v, float) and not math.isfinite(v)]
    if bad:
        odd = np.flatnonzero(np.isin(rows, bad))
        raise DataError(
            f"{len(odd)} of {len(rows)} labels in {where} are not finite: {place(table, odd[0])} has "
            f"{values[rows[odd[0]]]}",
            "fill or drop these rows",
        )
    values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    if task.strip_labels:
        values = [v.strip() if isinstance(v, str) else v for v in values]
    numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
    order = np.array([numbers[value] for value in values], np.int64)
    return Labels(list(numbers), order[rows])


def _plain(column: pa.ChunkedArray, task: Task, where: str) -> pa.ChunkedArray:
    """Return a column of labels as texts, numbers or truth values; raise DataError for values of other kinds."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type), task, where)
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text or pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    raise DataError(
        f"the label column `{task.label}` of {where} holds {kind}",
        "a label is one text or number a row; for lists of labels task.kind = multi-label",
    )


def label_notes(task: Task, train: pa.Table) -> tuple[str, ...]:
    """Return lines for the user on labels that look alike or like missing values, none where there are no such."""
    found = label_values(task, train, "train")
    counts = {str(v): n for v, n in zip(found.values, found.counts(), strict=True) if v is not None}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        groups[_looks(name)].append(name)
    alike = [f"{name!r} ({counts[name]})" for group in groups.values() if len(group) > 1 for name in sorted(group)]
    missing = [f"{name!r} ({count})" for name, count in counts.items() if _looks(name) in MISSING]
    notes = []
    if alike:
        strip = "" if task.strip_labels else "; --set task.strip_labels=true leaves the spaces out"
        notes.append(f"labels that look alike are classes of their own: {some(alike)}{strip}")
    if missing and task.labels is None:
        notes.append(f"labels that look like missing values are classes: {some(missing)}; drop these rows if they are")
    return tuple(notes)


def _looks(name: str) -> str:
    """Return what a reader sees of a label: no capitals, spaces around it or invisible signs, and numbers as such."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    text = visible.strip().casefold()
    number = number_of(text)
    return text if number is None else repr(number)


def stored_names(table: pa.Table, column: str) -> list[str] | None:
    """Return the names that `datasets` keeps in the metadata of a Parquet file, or None.

    Raises DataError for metadata that cannot be read: without them the order of the labels would be guessed.
    """
    raw = (table.schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    try:
        feature = parse_json(raw, "it").get("info", {}).get("features", {}).get(column, {})
        names = feature.get("feature", feature).get("names")  # a list of labels holds the feature of one
        if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return names
        told = f"names = {names!r}"
    except (RunDirError, AttributeError) as err:
        told = str(err)
    raise DataError(
        f"the metadata `huggingface` of the Parquet file, which names its labels, cannot be read: {told[:200]}",
        "name them in the recipe: task.labels = [...], or write the file again",
    )


def with_names(table: pa.Table, column: str, names: list[str]) -> pa.Table:
    """Return the table with the names of its labels in the metadata, as `datasets` writes them."""
    info = {"info": {"features": {column: {"names": list(names), "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"huggingface": json.dumps(info).encode()})


def label_numbers(task: Task, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
    """Return the label of every row as its place in `names`, int64 (n,).

    A value is a name, or, where no name looks like a number, a place in the recipe's or else the file's order of names.
    Raises DataError naming the first other.
    """
    known: dict[str, int] = {name: i for i, name in enumerate(names)}
    if all(number_of(name) is None for name in names):
        order = task.labels or stored_names(table, task.label) or []
        known |= {str(i): known[name] for i, name in enumerate(order) if name in known and str(i) not in known}
    labels = label_values(task, table, where)
    found: np.ndarray = np.array([known.get(str(v), HIDDEN) for v in labels.values], np.int64)[labels.rows]
    bad = np.flatnonzero(found == HIDDEN)
    if len(bad):
        raise _unknown_label(task, table, where, names, bad, labels)
    return found


def _unknown_label(
    task: Task, table: pa.Table, where: str, names: Sequence[str], bad: np.ndarray, labels: Labels
) -> DataError:
    """Return the error for labels that are none of the known ones, with the likely way out."""
    first = labels.values[labels.rows[bad[0]]]
    hidden = all(v is None or str(v) == str(HIDDEN) for v in labels.values)
    if hidden and where == "test":
        hint = HIDDEN_HINT
    elif first is None:
        hint = "fill or drop these rows"
    elif str(first).strip() in names:
        hint = "--set task.strip_labels=true leaves out the spaces around labels"
    elif str(first) in map(str, range(len(names))):
        hint = "where numbers are places, say in which order the names are: task.labels = [...]"
    else:
        hint = f"set task.labels, task.label or task.{where}_split"
    has = "has none" if first is None else f"has {first!r}"
    return DataError(
        f"{len(bad)} of {len(labels.rows)} labels in {where} are none of {some(names)}: {place(table, bad[0])} {has}"
        + (" (all are: a split whose labels are hidden)" if hidden else ""),
        hint,
    )
