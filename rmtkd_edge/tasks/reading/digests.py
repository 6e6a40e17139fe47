"""A hash of the rows that were read, by which a run knows its data again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain

import numpy as np


def rows_digest(labels: Sequence[str], *columns: np.ndarray | Sequence[Sequence[int]]) -> str:
    """Return the SHA-256 of a split, as hex.

    Args:
        labels: their names in label order.
        columns: an array, or a sequence of token ids, of all rows.
    """
    digest = hashlib.sha256(repr(list(labels)).encode())
    for column in columns:
        if not isinstance(column, np.ndarray):
            lengths = np.array([len(row) for row in column], np.int64)
            digest.update(lengths.tobytes())
            column = np.fromiter(chain.from_iterable(column), np.int64, int(lengths.sum()))
        digest.update(repr((column.shape, column.dtype.str)).encode())
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()
