"""Text classification: rows to token ids, checked before anything expensive starts; batches in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rmtkd_edge.errors import DataError
from rmtkd_edge.config.recipe import Task
from rmtkd_edge.config.settings import did_you_mean
from rmtkd_edge.tasks.reading.labels import held_out, label_names, label_numbers
from rmtkd_edge.tasks.reading.tables import load_tables
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer, resolve_source

__all__ = [
    "Split",
    "TextTask",
    "batches",
    "calibration_indices",
    "check_length",
    "encode",
    "load_text_task",
    "load_tokenizer",
    "padded",
    "resolve_source",
    "steps",
]

POOL = 50  # batches that are sorted by length together: little padding, and still a random order


@dataclass(frozen=True)
class Split:
    """Rows of one split: token ids with special tokens (lists, truncated), type ids or None, labels (n,) int64."""

    ids: list[list[int]]
    type_ids: list[list[int]] | None
    labels: np.ndarray
    texts: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> Split:
        """Return the rows of the given numbers, in their order."""
        types = None if self.type_ids is None else [self.type_ids[i] for i in indices]
        return Split([self.ids[i] for i in indices], types, self.labels[indices], [self.texts[i] for i in indices])


@dataclass(frozen=True)
class TextTask:
    """A tokenised data set."""

    name: str
    labels: list[str]
    train: Split
    validation: Split
    metric: str = "accuracy"


def load_text_task(task: Task, tokenizer: Any, data: Path | None, seed: int) -> TextTask:
    """Return the tokenised splits of a task.

    Where there is no validation split, `task.validation_fraction` of train is held out under `seed`. Raises DataError
    for missing columns, no rows, a single class, empty or odd values and labels out of range.
    """
    tables = load_tables(task, data)
    train, validation = tables["train"], tables.get("validation")
    check_table(task, train, "train")
    if validation is None:
        kept, held = held_out(task, len(train), seed)
        train, validation = train.take(kept), train.take(held)
    check_table(task, validation, "validation")
    names = label_names(task, train)
    rng = np.random.default_rng([seed, 2])
    train = _limit(train, task.train_limit, rng)
    validation = _limit(validation, task.validation_limit, rng)
    return TextTask(
        task.name,
        names,
        _encode(task, train, "train", names, tokenizer),
        _encode(task, validation, "validation", names, tokenizer),
    )


def _limit(table: pa.Table, limit: int | None, rng: np.random.Generator) -> pa.Table:
    if limit is None or len(table) <= limit:
        return table
    return table.take(np.sort(rng.permutation(len(table))[:limit]))


def check_table(task: Task, table: pa.Table, where: str) -> None:
    """Raise DataError where a table has no rows, or not once each column that the recipe names (all at once)."""
    lines = []
    for column in (*task.text, task.label):
        if table.column_names.count(column) > 1:
            lines.append(f"{where} has {table.column_names.count(column)} columns `{column}`")
        if column not in table.column_names:
            lines.append(f"{where} has no column `{column}`{did_you_mean(column, table.column_names)}")
    if lines:
        raise DataError(
            "\n".join(lines) + f"\ncolumns there: {', '.join(table.column_names)}",
            "set task.text and task.label in the recipe",
        )
    if not len(table):
        raise DataError(
            f"the {where} split has no rows", "check the file, and task.train_split / task.validation_split"
        )


def _encode(task: Task, table: pa.Table, where: str, names: list[str], tokenizer: Any) -> Split:
    labels = label_numbers(task, table, where, names)
    columns = [_texts(table, column, where) for column in task.text]
    ids, types = encode(tokenizer, columns, task.max_length)
    empty = [i for i, row in enumerate(ids) if not row]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(ids)} rows of {where} have no tokens (row {empty[0]} is {columns[0][empty[0]]!r})",
            "drop these rows, or use a tokenizer that adds special tokens",
        )
    return Split(ids, types, labels, list(zip(*columns, strict=True)))


def encode(
    tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Return token ids, truncated and not padded, and type ids (None where all are zero) of texts or pairs of texts."""
    encoded = tokenizer(*[list(column) for column in columns], truncation=True, max_length=max_length)
    types = encoded.get("token_type_ids") if len(columns) > 1 else None
    return encoded["input_ids"], types


def _texts(table: pa.Table, column: str, where: str) -> list[str]:
    values = table[column].to_pylist()
    bad = [i for i, v in enumerate(values) if not isinstance(v, str)]
    if bad:
        kind = "empty" if values[bad[0]] is None else f"a {type(values[bad[0]]).__name__}"
        raise DataError(
            f"{len(bad)} of {len(values)} values of `{column}` in {where} are no text (row {bad[0]} is {kind})",
            "fill or drop these rows",
        )
    return values


def check_length(max_length: int, positions: int) -> None:
    """Raise DataError where sequences may be longer than the model has positions."""
    if max_length > positions:
        raise DataError(
            f"task.max_length is {max_length}, the model has {positions} positions",
            f"--set task.max_length={positions}",
        )


def steps(split: Split, batch_size: int) -> int:
    """Return the number of batches of an epoch."""
    return -(-len(split) // batch_size)


def calibration_indices(split: Sized, fraction: float, minimum: int, seed: int) -> np.ndarray:
    """Return the sorted row numbers of the calibration subset: `fraction` of the split, at least `minimum` rows."""
    count = min(len(split), max(minimum, round(fraction * len(split))))
    return np.sort(np.random.default_rng([seed, 3]).permutation(len(split))[:count])


def batches(split: Split, batch_size: int, pad_id: int, seed: int | None) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches: input_ids, attention_mask, token_type_ids, labels (int64) and `index`, the row's number.

    With a seed the rows are shuffled and sorted by length within pools of 50 batches, whose order is shuffled again, so
    that little is padded; without one they come in order of length.
    """
    lengths = np.array([len(i) for i in split.ids])
    if seed is None:
        order = np.argsort(lengths, kind="stable")
        groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    else:
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(split))
        pools = [shuffled[i : i + batch_size * POOL] for i in range(0, len(shuffled), batch_size * POOL)]
        pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
        groups = [pool[i : i + batch_size] for pool in pools for i in range(0, len(pool), batch_size)]
        groups = [groups[i] for i in rng.permutation(len(groups))]
    for group in groups:
        types = None if split.type_ids is None else [split.type_ids[i] for i in group]
        yield padded([split.ids[i] for i in group], types, pad_id) | {
            "labels": torch.from_numpy(np.ascontiguousarray(split.labels[group])),
            "index": torch.from_numpy(group.astype(np.int64)),
        }


def padded(ids: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]] | None, pad_id: int) -> dict[str, Tensor]:
    """Return input_ids, attention_mask and token_type_ids, int64 (B, T).

    Rows are padded on the right, whatever the tokenizer would do: the classifier reads the first token.
    """
    shape = (len(ids), max(len(row) for row in ids))
    out = {"input_ids": torch.full(shape, pad_id)}
    out |= {name: torch.zeros(shape, dtype=torch.long) for name in ("attention_mask", "token_type_ids")}
    for i, row in enumerate(ids):
        out["input_ids"][i, : len(row)] = torch.tensor(row)
        out["attention_mask"][i, : len(row)] = 1
        if type_ids is not None:
            out["token_type_ids"][i, : len(row)] = torch.tensor(type_ids[i])
    return out
