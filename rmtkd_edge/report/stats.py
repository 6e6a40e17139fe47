"""The interval of a median latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_ROUNDS = 5


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
