"""`explained-variance`: the fewest directions that hold a share of the energy: the usual heuristic, a baseline."""

from __future__ import annotations

import numpy as np

from rmtkd_edge.spectral.bulk import Bulk
from rmtkd_edge.spectral.rules.base import Choice, Options


def fit(bulk: Bulk, options: Options) -> Choice:
    """Return the smallest rank whose eigenvalues sum to `explained` of the trace.

    `lambda_plus` is the largest eigenvalue left out (0 when none is), `sigma2` the mean of those left out.
    """
    share = np.cumsum(bulk.values) / bulk.values.sum()
    rank = min(int(np.searchsorted(share, options.explained * (1 - 1e-12))) + 1, len(bulk.values))
    rest = bulk.values[rank:]
    if len(rest) == 0:
        return Choice(0.0, 0.0, 0.0, rank=rank, note="every direction is needed")
    return Choice(float(rest.mean()), float(rest[0]), float(rest[-1]), rank=rank)
