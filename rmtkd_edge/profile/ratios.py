"""Ratios of medians with their intervals, from rounds that ran in turn or from two sessions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEAST_ROUNDS = 5
RESAMPLES = 4000
TRIM = 0.2  # of the rounds at each end: another process's burst falls into a round of one model alone
Rounds = Sequence[Sequence[float]]
Interval = tuple[float, float]


def ratio_of_medians(candidate: Rounds, baseline: Rounds, seed: int) -> tuple[float, Interval | None]:
    """Return the trimmed geometric mean over rounds of median(candidate) / median(baseline), and its 95 % interval.

    A fifth of the rounds is left out at each end (Yuen, Biometrika 61, 1974): while other processes run the interval
    holds more often so. It (None below 5 rounds) bootstraps whole rounds; its percentiles are spread for the small
    number of rounds (the expanded percentile interval of Hesterberg, arXiv 1411.5279).

    Args:
        candidate: positive values by round.
        baseline: values in the same unit; round i of both ran one after the other, so that the machine's drift cancels
            within a round.
        seed: of the bootstrap.

    Raises:
        ValueError: rounds that are unpaired, empty or not positive.
    """
    if len(candidate) != len(baseline) or not candidate:
        raise ValueError(f"rounds come in pairs: {len(candidate)} of the candidate, {len(baseline)} of the baseline")
    logs = _log_medians(candidate) - _log_medians(baseline)
    ratio = float(np.exp(trimmed_mean(logs)))
    if len(logs) < LEAST_ROUNDS:
        return ratio, None
    return ratio, _interval(resampled(logs, np.random.default_rng(seed)), len(logs))


def ratio_of_sessions(numerator: Rounds, denominator: Rounds, seed: int) -> tuple[float, Interval | None]:
    """Return the ratio of the trimmed geometric means of round medians, and its 95 % interval.

    Rounds are drawn independently; the interval is None below 5 rounds on a side.

    Raises:
        ValueError: rounds that are empty or not positive.
    """
    above, below = _log_medians(numerator), _log_medians(denominator)
    ratio = float(np.exp(trimmed_mean(above) - trimmed_mean(below)))
    fewest = min(len(above), len(below))
    if fewest < LEAST_ROUNDS:
        return ratio, None
    rng = np.random.default_rng(seed)
    return ratio, _interval(resampled(above, rng) - resampled(below, rng), fewest)


def _log_medians(rounds: Rounds) -> NDArray[np.float64]:
    values = [np.asarray(r, float) for r in rounds]
    if not values or any(not len(r) or not np.isfinite(r).all() or r.min() <= 0 for r in values):
        raise ValueError("every round needs values, all finite and positive")
    return np.log([np.median(r) for r in values])


def _interval(drawn: NDArray[np.float64], rounds: int) -> Interval:
    tail = small_sample_tail(kept(rounds))
    low, high = np.exp(np.quantile(drawn, (tail, 1.0 - tail)))
    return float(low), float(high)


def resampled(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the trimmed means (RESAMPLES,) of bootstrap samples of the values (n,)."""
    return trimmed_mean(values[rng.integers(0, len(values), (RESAMPLES, len(values)))])


def trimmed_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean along the last axis without the TRIM lowest and the TRIM highest values."""
    left = kept(values.shape[-1])
    cut = (values.shape[-1] - left) // 2
    return np.sort(values, axis=-1)[..., cut : cut + left].mean(axis=-1)


def kept(rounds: int) -> int:
    """Return how many rounds a trimmed mean is taken over, which are its degrees of freedom and one (Yuen)."""
    return rounds - 2 * int(TRIM * rounds)


def small_sample_tail(rounds: int) -> float:
    """Return the share cut off at each end so that a bootstrap of few rounds covers 95 %.

    Normal tail at sqrt(n / (n - 1)) t(0.975, n - 1).
    """
    t = float(stdtrit(rounds - 1, 0.975))
    return NormalDist().cdf(-math.sqrt(rounds / (rounds - 1)) * t)
