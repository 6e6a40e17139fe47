"""Token sequences: rows of a table to ids, padded batches in a seeded order, and the shapes that exports break on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmtkd_edge.config.settings import did_you_mean
from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, some
from rmtkd_edge.tasks.base import Batch
from rmtkd_edge.tasks.reading.pairs import IDS_ALONE, encode_pairs
from rmtkd_edge.tasks.reading.places import columns, place
from rmtkd_edge.tasks.reading.progress import tell_count
from rmtkd_edge.tasks.reading.ragged import Ragged
from rmtkd_edge.tasks.reading.splits import IGNORE_TEST

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 8192  # rows whose texts and tokens are held as Python objects
POOL = 50  # batches that are sorted by length together: little padding, and still a random order
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Ids = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Special:
    """The ids of a tokenizer that carry no text: the padding token's, and all."""

    pad: int
    every: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Special:
        """Return the special ids of a tokenizer."""
        return cls(tokenizer.pad_token_id, tuple(tokenizer.all_special_ids))


def check_table(task: Task, table: pa.Table, where: str, labels: Sequence[str]) -> None:
    """Raise DataError where a table has no rows, or not once each column that the recipe names (all at once).

    Args:
        labels: columns of labels.
    """
    lines = []
    for column in (*task.text, *labels):
        if table.column_names.count(column) > 1:
            lines.append(f"{where} has {table.column_names.count(column)} columns `{column}`")
        if column not in table.column_names:
            lines.append(f"{where} has no column `{column}`{did_you_mean(column, columns(table))}")
    if lines:
        raise DataError(
            "\n".join(lines) + f"\ncolumns there: {some(columns(table))}",
            f"set task.text and task.{'label_columns' if task.label_columns else 'label'} in the recipe"
            + (f"; {IGNORE_TEST}" if where == "test" else ""),
        )
    if not len(table):
        raise DataError(f"the {where} split has no rows", f"check the file, and task.{where}_split")


def check_texts(task: Task, table: pa.Table, where: str) -> tuple[str, ...]:
    """Return a line on texts without any sign in them; raise DataError where a value is no text, with its place."""
    blank = []
    for column in task.text:
        values = table[column]
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        bad = np.flatnonzero(values.is_null().to_numpy()) if is_text else np.arange(len(values))
        if len(bad):
            first = values[bad[0]].as_py()
            told = "empty" if first is None else f"a {type(first).__name__}"
            raise DataError(
                f"{len(bad)} of {len(values)} values of `{column}` in {where} are no text "
                f"({place(table, bad[0])} is {told})",
                "fill or drop these rows",
            )
        empty = np.flatnonzero(pc.equal(pc.utf8_trim_whitespace(values.cast(pa.large_string())), "").to_numpy())
        if len(empty):
            first = place(table, empty[0])
            blank.append(f"{len(empty)} of {len(values)} values of `{column}` in {where} (first: {first})")
    return (f"texts without any sign in them are kept: {'; '.join(blank)}",) if blank else ()


def table_ids(task: Task, table: pa.Table, where: str, tokenizer: Any) -> tuple[Ragged, Ragged | None]:
    """Return token ids and type ids (None for single texts) of the text columns of a table, chunk by chunk."""
    parts: list[Ragged] = []
    types: list[Ragged] = []
    columns = table.select(list(task.text))
    for start in range(0, len(table), CHUNK):
        chunk = columns.slice(start, CHUNK)
        texts = [column.to_pylist() for column in chunk.columns]
        found, kinds = encode(tokenizer, texts, task.max_length)
        parts.append(Ragged.of(found))
        types += [] if kinds is None else [Ragged.of(kinds)]
        tell_count(f"rows of {where} tokenised", start + len(chunk), len(table))
    ids = Ragged.joined(parts)
    empty = np.flatnonzero(ids.lengths == 0)
    if len(empty):
        told = f"{place(table, empty[0])} is {columns[0][empty[0]].as_py()!r}"
        raise DataError(
            f"{len(empty)} rows of {where} have no tokens ({told})",
            "drop these rows, or use a tokenizer that adds special tokens",
        )
    return ids, Ragged.joined(types) if types else None


def encode(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int | None) -> tuple[Ids, Ids | None]:
    """Return token ids, truncated and not padded, of texts or pairs of texts, and type ids, None for single texts."""
    if len(columns) > 1:
        return encode_pairs(tokenizer, columns[0], columns[1], max_length)
    found = tokenizer(list(columns[0]), truncation=True, max_length=max_length, **IDS_ALONE)
    return found["input_ids"], None


def batch_rows(lengths: np.ndarray, batch_size: int, seed: int | None) -> list[np.ndarray]:
    """Return the row numbers of each batch.

    With a seed the rows are shuffled and sorted by length within pools of 50 batches, whose order is shuffled again, so
    that little is padded; without one they come in order of length.
    """
    if seed is None:
        order = np.argsort(lengths, kind="stable")
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(lengths))
    pools = [shuffled[i : i + batch_size * POOL] for i in range(0, len(shuffled), batch_size * POOL)]
    pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    groups = [pool[i : i + batch_size] for pool in pools for i in range(0, len(pool), batch_size)]
    return [groups[i] for i in rng.permutation(len(groups))]


def padded(ids: Ids, type_ids: Ids | None, special: Special) -> Batch:
    """Return input_ids, attention_mask, token_type_ids and special_tokens_mask, int64 (B, T).

    Rows are padded on the right, whatever the tokenizer would do: the classifier reads the first token.
    """
    import torch

    shape = (len(ids), max(len(row) for row in ids))
    out = {"input_ids": torch.full(shape, special.pad)}
    out |= {name: torch.zeros(shape, dtype=torch.long) for name in ("attention_mask", "token_type_ids")}
    for i, row in enumerate(ids):
        out["input_ids"][i, : len(row)] = torch.tensor(row)
        out["attention_mask"][i, : len(row)] = 1
        if type_ids is not None:
            out["token_type_ids"][i, : len(row)] = torch.tensor(type_ids[i])
    every = torch.tensor(special.every, dtype=torch.long)
    return out | {"special_tokens_mask": torch.isin(out["input_ids"], every).long()}


def variations(batches: Iterable[Mapping[str, Tensor]], pad_id: int, max_length: int) -> list[Batch]:
    """Return held-out batches in the shapes where exports break.

    After the batches themselves: one row alone without padding; three tokens; the shortest row, of at most half of
    `max_length`, next to the longest one, padded to `max_length`; a batch of sequences of `max_length` without any
    padding (rows repeated). int64 (B, T).
    """
    found = [{name: batch[name] for name in INPUTS if name in batch} for batch in batches]
    if not found:
        raise DataError("there are no held-out rows to verify on", "set export.verify_rows to 1 or more")
    rows = [_row(batch, i) for batch in found for i in range(len(batch["input_ids"]))]
    rows.sort(key=lambda row: row["input_ids"].shape[1])
    short = {name: tensor[:, : max(1, max_length // 2)] for name, tensor in rows[0].items()}
    long = rows[-1]
    full = {name: tensor.repeat(1, -(-max_length // tensor.shape[1]))[:, :max_length] for name, tensor in long.items()}
    stub = {name: tensor[:, :3] for name, tensor in long.items()}
    filled = [_pad(row, pad_id, max_length) for row in (short, long, short)]
    return [*found, long, stub, _stack(filled), _stack([full, full])]


def _row(batch: Batch, i: int) -> Batch:
    size = int(batch["attention_mask"][i].sum())
    return {name: tensor[i : i + 1, :size] for name, tensor in batch.items()}


def _pad(row: Batch, pad_id: int, length: int) -> Batch:
    from torch.nn import functional as F

    fill = {"input_ids": pad_id}
    return {name: F.pad(t, (0, length - t.shape[1]), value=fill.get(name, 0)) for name, t in row.items()}


def _stack(rows: Sequence[Batch]) -> Batch:
    import torch

    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
