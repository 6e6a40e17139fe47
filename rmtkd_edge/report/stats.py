"""Intervals and ratios that the report states beside its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

LEAST_ROUNDS = 5


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


def median_interval(
    rounds: Sequence[Sequence[float]], seed: int = 0, resamples: int = 1000
) -> tuple[float, float] | None:
    """Return a 95 % interval of the median of all values, in their unit, by resampling whole rounds.

    Runs of one round share what the machine was doing, so rounds are the sample, not runs. None below 5 rounds.
    Source: percentile bootstrap of clusters, Davison and Hinkley, Bootstrap Methods, section 3.8.
    """
    blocks = [np.asarray(r, dtype=np.float64) for r in rounds if len(r)]
    if len(blocks) < LEAST_ROUNDS:
        return None
    ordered = np.sort(np.concatenate(blocks))
    below = np.stack([np.searchsorted(np.sort(block), ordered, side="right") for block in blocks])
    draws = np.random.default_rng(seed).integers(0, len(blocks), (resamples, len(blocks)))
    half = below[:, -1][draws].sum(axis=1) / 2
    # The median of a draw is the smallest value with half of the drawn values at or below it: bisection, all at once.
    low, high = np.zeros(resamples, dtype=np.int64), np.full(resamples, len(ordered) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        enough = below[draws, middle[:, None]].sum(axis=1) >= half
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    ends = np.percentile(ordered[low], (2.5, 97.5))
    return float(ends[0]), float(ends[1])
