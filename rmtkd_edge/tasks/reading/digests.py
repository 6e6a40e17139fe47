"""A hash of the rows that were read, by which a run knows its data again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rmtkd_edge.tasks.reading.ragged import Ragged

CHUNK = 2**20  # numbers that are widened at once


def rows_digest(labels: Sequence[str], *columns: np.ndarray | Sequence[Sequence[int]]) -> str:
    """Return the SHA-256 of a split, as hex.

    Args:
        labels: their names in label order.
        columns: an array, or a sequence of token ids, of all rows.
    """
    digest = hashlib.sha256(repr(list(labels)).encode())
    for column in columns:
        if isinstance(column, np.ndarray):
            digest.update(repr((column.shape, column.dtype.str)).encode())
            digest.update(np.ascontiguousarray(column).data)
            continue
        rows = Ragged.of(column)
        digest.update(rows.lengths.tobytes())
        digest.update(repr((rows.flat.shape, np.dtype(np.int64).str)).encode())
        for start in range(0, len(rows.flat), CHUNK):
            digest.update(rows.flat[start : start + CHUNK].astype(np.int64).data)
    return digest.hexdigest()
