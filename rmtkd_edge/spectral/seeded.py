"""Random numbers that belong to a row, not to a place in a stream: several processes draw what one would draw."""

from __future__ import annotations

import numpy as np
from scipy.linalg import helmert

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def row_uniform(seed: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Return uniforms in [0, 1), (len(rows), columns): functions of seed, row number and column alone (splitmix64)."""
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(seed) * _GOLDEN + rows.astype(np.uint64))
        state = _mix(state[:, None] + _GOLDEN * np.arange(1, columns + 1, dtype=np.uint64)[None])
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def row_contrasts(seed: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Return random v (len(rows), columns >= 2), each summing to zero, with E[v v^T] = I - 1 1^T / columns.

    Random signs over an orthonormal basis of what is orthogonal to 1 (Helmert's): of two columns no draw is zero, where
    half of all plain signs are the same and so centred away.
    """
    return row_signs(seed, rows, columns - 1) @ helmert(columns)


def row_signs(seed: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Return random signs v (len(rows), columns), -1.0 or 1.0: E[v v^T] = I."""
    return np.where(row_uniform(seed, rows, columns) < 0.5, -1.0, 1.0)


def _mix(z: np.ndarray) -> np.ndarray:
    """Return splitmix64's output function (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
