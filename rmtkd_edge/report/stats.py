"""Intervals and ratios that the report states beside its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, without continuity correction.

    `successes` of `n` trials; both ends lie in [0, 1]. Raises ValueError for counts that cannot be.
    Source: E. B. Wilson, JASA 22 (1927) 209-212.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials cannot be")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def accuracy_interval(accuracy: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of an accuracy in [0, 1] that was measured on `n` rows."""
    return wilson_interval(round(accuracy * n), n)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the distribution-free interval of the median from order statistics, in the unit of `values`.

    The k-th smallest and k-th largest value, k the largest rank whose coverage 1 - 2 P(Bin(n, 1/2) < k) reaches
    `confidence`. None where there are too few values for any such rank (fewer than 6 at 95 %).
    Source: David and Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    n = len(values)
    tail, rank = 0.0, 0
    for k in range(n // 2):
        tail += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        if 1 - 2 * tail < confidence:
            break
        rank = k + 1
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[n - rank]
