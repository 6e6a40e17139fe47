"""Intervals against scipy, and the properties that make them intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rmtkd_edge.report.stats import accuracy_interval, median_interval, wilson_interval


@given(st.data(), st.integers(1, 5000), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(data, n, confidence):
    k = data.draw(st.integers(0, n))
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_holds_the_estimate_and_stays_a_share(n, share):
    k = round(share * n)
    low, high = accuracy_interval(k / n, n)
    assert 0 <= low <= k / n <= high <= 1


def test_more_rows_narrow_the_interval():
    widths = [np.diff(accuracy_interval(0.82, n))[0] for n in (100, 872, 10_000)]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match="cannot be"):
        wilson_interval(k, n)


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
