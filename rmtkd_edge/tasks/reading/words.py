"""Lists of words with a label each: joined to texts, so that clients that read texts get the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.tasks.entity_metrics import IGNORED
from rmtkd_edge.tasks.reading.label_sets import single_labels
from rmtkd_edge.tasks.reading.labels import label_numbers
from rmtkd_edge.tasks.reading.pairs import IDS_ALONE
from rmtkd_edge.tasks.reading.places import place
from rmtkd_edge.tasks.reading.progress import tell_count
from rmtkd_edge.tasks.reading.ragged import Ragged

CHUNK = 8192  # rows whose texts and tokens are held as Python objects
WAYS = "a row has a list of words and a list of as many labels; CoNLL files end with .conll"


def joined_words(task: Task, table: pa.Table, where: str) -> pa.Table:
    """Return a table whose lists of words became texts, words parted by one space.

    Raises:
        DataError: values that are no lists of words, a word that is empty or has a space in it, or other numbers of
            words and labels, with the place of the first.
    """
    (column,) = task.text
    kind = table[column].type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not _is_text(kind.value_type):
        raise DataError(f"the column `{column}` of {where} holds {kind}, and not lists of words", WAYS)
    words = table[column].cast(pa.large_list(pa.large_string())).combine_chunks()
    if task.label in table.column_names:
        _check_lengths(task, table, where, words)
    flat, rows = pc.list_flatten(words), pc.list_parent_indices(words)
    bad = pc.or_kleene(pc.equal(pc.utf8_length(flat), 0), pc.match_substring(flat, " "))
    odd = np.flatnonzero(pc.fill_null(bad, True).to_numpy(zero_copy_only=False))
    if len(odd):
        told = f"{place(table, rows[int(odd[0])].as_py())} has {flat[int(odd[0])].as_py()!r}"
        raise DataError(
            f"{len(odd)} words of `{column}` in {where} are empty or have a space in them ({told})",
            "leave them out with their labels, or put another sign in place of the space",
        )
    texts = pc.binary_join(words, pa.scalar(" ", pa.large_string()))
    return table.set_column(table.schema.get_field_index(column), column, texts)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _check_lengths(task: Task, table: pa.Table, where: str, words: Any) -> None:
    kind = table[task.label].type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise DataError(f"the label column `{task.label}` of {where} holds {kind}, and not lists of labels", WAYS)
    labels = table[task.label].cast(pa.large_list(kind.value_type)).combine_chunks()
    counts = [pc.fill_null(pc.list_value_length(part), 0).to_numpy(zero_copy_only=False) for part in (words, labels)]
    odd = np.flatnonzero((counts[0] != counts[1]) | (counts[0] == 0))
    if len(odd):
        first = odd[0]
        told = f"{place(table, first)} has {counts[0][first]} words and {counts[1][first]} labels"
        raise DataError(f"{len(odd)} rows of {where} have other numbers of words and labels, or none ({told})", WAYS)


def word_labels(task: Task, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
    """Return the place of every word's label in `names`, int16 (n, words), -100 after the last word of a row.

    Raises DataError for a label that is none of `names`, with its place.
    """
    labels, rows = single_labels(task, table, where)
    numbers = label_numbers(task, labels, where, names)
    counts = np.bincount(rows, minlength=len(table))
    found = np.full((len(table), int(counts.max(initial=0))), IGNORED, np.int16)
    found[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = numbers
    return found


def encode_words(tokenizer: Any, texts: Sequence[str], max_length: int | None, where: str) -> tuple[Ragged, Ragged]:
    """Return the token ids of texts, truncated and not padded, and which word each token begins, -1 for all others.

    Raises:
        UserError: the tokenizer does not say where its tokens come from.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "the tokenizer does not say which characters a token comes from", "use one that has a tokenizer.json"
        )
    ids: list[Ragged] = []
    words: list[Ragged] = []
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        options = {**IDS_ALONE, "return_offsets_mapping": True}
        found = tokenizer(chunk, truncation=True, max_length=max_length, **options)
        ids.append(Ragged.of(found["input_ids"]))
        spans = found["offset_mapping"]
        words.append(Ragged.of([_first_tokens(text, span) for text, span in zip(chunk, spans, strict=True)]))
        tell_count(f"rows of {where} tokenised", start + len(chunk), len(texts))
    return Ragged.joined(ids), Ragged.joined(words)


def _first_tokens(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the number of the word that each token begins, -1 for one that begins none.

    A token may hold the space before its word: its last character tells which it is.
    """
    word_of = np.cumsum([sign == " " for sign in text])
    found, last = [], -1
    for first, end in spans:
        word = int(word_of[end - 1]) if end > first else -1
        found.append(word if word > last else -1)
        last = max(last, word)
    return found


def on_tokens(words: Ragged, labels: np.ndarray) -> np.ndarray:
    """Return labels (n, words) at the first tokens of their words, int16 (n, T), -100 elsewhere."""
    found = np.full((len(words), int(words.lengths.max(initial=0))), IGNORED, np.int16)
    rows = np.repeat(np.arange(len(words)), words.lengths)
    places = np.arange(len(words.flat)) - np.repeat(words.starts, words.lengths)
    begins = words.flat >= 0
    found[rows[begins], places[begins]] = labels[rows[begins], words.flat[begins]]
    return found
