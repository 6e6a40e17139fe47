"""`window`: the paper's rule made well-posed, monotone in the quantile by construction.

L(s) is the distance between the histogram of the spectrum and the Marchenko-Pastur law at variance s; it does not
depend on the quantile tau. The noise variance is the smallest minimiser of L over the eigenvalues whose rank lies
within delta of tau. If tau1 < tau2 had minimisers s1 > s2, both would lie in both windows, so L(s1) = L(s2), and
"smallest" at tau1 would have picked s2. Hence a higher quantile never keeps more. delta = 0 takes the initial value,
a large delta fits globally.
"""

from __future__ import annotations

import math

import numpy as np

from rmtkd_edge.spectral.bulk import Bulk
from rmtkd_edge.spectral.rules.base import Choice, Options, law_choice, order_statistic


def fit(bulk: Bulk, options: Options) -> Choice:
    """Return the edge at the smallest minimiser of L in the window of ranks around the quantile."""
    candidates = bulk.scaled
    first, last = window(options.quantile, options.delta, len(candidates))
    best = first + int(np.argmin(bulk.losses[first : last + 1]))
    return law_choice(bulk, float(candidates[best]), options.margin_level, options.quantile)


def window(quantile: float, delta: float, m: int) -> tuple[int, int]:
    """Return the first and last 0-based index of ceil((tau - delta) m) .. floor((tau + delta) m), clipped to 1..m.

    Both ends are non-decreasing in the quantile; a window without an index in it becomes the quantile's own order
    statistic.
    """
    first = min(max(math.ceil((quantile - delta) * m), 1), m) - 1
    last = min(max(math.floor((quantile + delta) * m), 1), m) - 1
    own = order_statistic(quantile, m)
    return min(first, own), max(last, own)
