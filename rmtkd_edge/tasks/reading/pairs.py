"""Pairs of texts to token ids: cut before they are joined, and every token with the type of its text.

Tokenizers cut a pair after they have joined it, and keep all that they cut off in every combination: two texts of a
thousand words take seconds. What comes out is the same here, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmtkd_edge.errors import DataError

IDS_ALONE = {"return_attention_mask": False, "return_token_type_ids": False}  # masks take as long as the ids
CHUNK = 4096  # rows that are tokenised at once

Row = list[int]


@dataclass(frozen=True)
class Join:
    """What a tokenizer puts before, between and after the texts of a pair, as ids and types, and the texts' types."""

    before: tuple[Row, Row]
    between: tuple[Row, Row]
    after: tuple[Row, Row]
    texts: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Any) -> Join:
        """Return how a fast tokenizer joins; where it tells no types, the second text and all after it have type 1."""
        found = tokenizer(["a"], ["a"], return_token_type_ids=True)
        sequence, ids, types = found.sequence_ids(0), found["input_ids"][0], found["token_type_ids"][0]
        starts = sequence.index(0), sequence.index(1)
        ends = starts[0] + sequence.count(0), starts[1] + sequence.count(1)
        if not any(types):
            types = [int(i >= starts[1]) for i in range(len(ids))]
        parts = slice(0, starts[0]), slice(ends[0], starts[1]), slice(ends[1], None)
        before, between, after = ((ids[part], types[part]) for part in parts)
        return cls(before, between, after, (types[starts[0]], types[starts[1]]))

    @property
    def added(self) -> int:
        """Return the number of tokens that are no text."""
        return len(self.before[0]) + len(self.between[0]) + len(self.after[0])

    def row(self, first: Row, second: Row) -> tuple[Row, Row]:
        """Return ids and types of a pair."""
        types = [self.texts[0]] * len(first), [self.texts[1]] * len(second)
        ids = [*self.before[0], *first, *self.between[0], *second, *self.after[0]]
        return ids, [*self.before[1], *types[0], *self.between[1], *types[1], *self.after[1]]


def encode_pairs(
    tokenizer: Any, first: Sequence[str], second: Sequence[str], max_length: int | None
) -> tuple[list[Row], list[Row]]:
    """Return token ids and type ids of pairs of texts, no longer than `max_length` (the tokenizer's own when None).

    Raises DataError where the special tokens alone are longer.
    """
    if not tokenizer.is_fast:  # it cuts before it joins
        found = tokenizer(list(first), list(second), truncation=True, max_length=max_length, return_token_type_ids=True)
        return found["input_ids"], found["token_type_ids"]
    join = Join.of(tokenizer)
    room = (tokenizer.model_max_length if max_length is None else max_length) - join.added
    if room < 1:
        raise DataError(
            f"{join.added} special tokens leave no room for text", f"--set task.max_length={join.added + 2}"
        )
    left, ids, types = tokenizer.truncation_side == "left", [], []
    for start in range(0, len(first), CHUNK):
        columns = (
            tokenizer(list(texts[start : start + CHUNK]), add_special_tokens=False, verbose=False, **IDS_ALONE)[
                "input_ids"
            ]
            for texts in (first, second)
        )
        for pair in zip(*columns, strict=True):
            lengths = shares(len(pair[0]), len(pair[1]), room)
            cut = (row[len(row) - n :] if left else row[:n] for row, n in zip(pair, lengths, strict=True))
            row, kinds = join.row(*cut)
            ids.append(row)
            types.append(kinds)
    return ids, types


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each text of a pair are kept: the longer is cut, then both alike, as tokenizers do."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    kept = (short, room - short) if 2 * short <= room else (room // 2, room - room // 2)
    return kept if first <= second else (kept[1], kept[0])
