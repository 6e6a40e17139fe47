"""Rows of whole numbers of different lengths in flat arrays: token ids of millions of rows fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, overload

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged(Sequence[list[int]]):
    """A sequence of rows.

    Attributes:
        flat: int32 (numbers,), the rows one after the other.
        lengths: int64 (rows,).
        starts: int64 (rows,), where each begins in `flat`.
    """

    flat: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """Return rows of any kind; those that are `Ragged` already are not copied."""
        if isinstance(rows, cls):
            return rows
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls._made(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths)

    @classmethod
    def joined(cls, parts: Iterable[Ragged]) -> Ragged:
        """Return the rows of several parts, one after the other."""
        found = [cls.of([]), *parts]
        return cls._made(np.concatenate([p.flat for p in found]), np.concatenate([p.lengths for p in found]))

    @classmethod
    def _made(cls, flat: np.ndarray, lengths: np.ndarray) -> Ragged:
        return cls(flat, lengths, np.cumsum(lengths) - lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, i: int) -> list[int]: ...
    @overload
    def __getitem__(self, i: slice) -> Ragged: ...
    def __getitem__(self, i: int | slice) -> list[int] | Ragged:
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        found: list[int] = self._row(i).tolist()
        return found

    def _row(self, i: int) -> np.ndarray:
        return self.flat[self.starts[i] : self.starts[i] + self.lengths[i]]

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        rows = Ragged.of(other)
        return np.array_equal(self.lengths, rows.lengths) and np.array_equal(self.flat, rows.flat)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: np.ndarray) -> Ragged:
        """Return the rows of the given numbers, in their order."""
        flat = np.concatenate([self.flat[:0], *(self._row(i) for i in indices)])
        return self._made(flat, self.lengths[indices])
