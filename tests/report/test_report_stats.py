"""The interval of a median latency: it holds the median, and covers it as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from rmtkd_edge.report.stats import median_interval


def test_median_interval_holds_the_median_of_unequal_rounds():
    rng = np.random.default_rng(3)
    rounds = [rng.exponential(1 + i % 3, size=5 + 40 * (i % 3)).tolist() for i in range(12)]
    low, high = median_interval(rounds)
    assert low <= np.median(np.concatenate(rounds)) <= high


def test_median_interval_covers_when_rounds_differ():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(60):
        drift = rng.normal(size=20)  # what the machine did during each round
        low, high = median_interval([(10 + d + 0.1 * rng.normal(size=8)).tolist() for d in drift], resamples=200)
        hits += low <= 10 <= high
    assert hits >= 50  # pooled runs, taken as independent, cover about half of the time


def test_rounds_all_alike_have_no_spread():
    assert median_interval([[2.0, 2.0]] * 6) == (2.0, 2.0)


def test_too_few_rounds_have_no_interval():
    assert median_interval([[1.0, 2.0]] * 4) is None
    assert median_interval([]) is None


def test_median_interval_agrees_with_resampling_one_by_one():
    rng = np.random.default_rng(5)
    rounds = [rng.normal(i % 4, 1, size=2 * int(rng.integers(2, 30)) + 1) for i in range(9)]
    draws = np.random.default_rng(7).integers(0, 9, (400, 9))
    pooled = [np.sort(np.concatenate([rounds[i] for i in draw])) for draw in draws]
    medians = [values[(len(values) - 1) // 2] for values in pooled]
    assert median_interval(rounds, seed=7, resamples=400) == pytest.approx(tuple(np.percentile(medians, (2.5, 97.5))))
