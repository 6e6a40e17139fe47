"""What an edge rule is given and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtkd_edge.spectral.bulk import Bulk
from rmtkd_edge.spectral.law import edges, tw_margin


@dataclass(frozen=True)
class Options:
    """The knobs of all rules; a rule ignores those that are not its own."""

    quantile: float = 0.5
    delta: float = 0.05
    margin_level: float | None = None
    explained: float = 0.95
    null_eigenvalues: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Choice:
    """What a rule found, in the units of the eigenvalues: directions above `lambda_plus + margin` are kept.

    `rank` is given by a rule whose cut is not an edge (explained variance), else None: count what lies above.
    """

    sigma2: float
    lambda_plus: float
    lambda_minus: float
    margin: float = 0.0
    quantile: float | None = None
    distance: float | None = None
    rank: int | None = None
    note: str = ""


def law_choice(bulk: Bulk, sigma2: float, level: float | None, quantile: float | None, note: str = "") -> Choice:
    """Return the Choice of the Marchenko-Pastur edge at `sigma2`, with a Tracy-Widom margin at `level` (None: none)."""
    low, high = edges(sigma2, bulk.q)
    margin = 0.0 if level is None else tw_margin(sigma2, bulk.q, bulk.n_eff, level)
    return Choice(sigma2, high, low, margin, quantile, bulk.distance_at(sigma2), note=note)


def order_statistic(quantile: float, m: int) -> int:
    """Return the 0-based index of the quantile among m ascending values: ceil(quantile m), clipped to 1..m, less 1."""
    return min(max(math.ceil(quantile * m), 1), m) - 1
