"""Intervals against scipy, and the properties that make them intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

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


def test_median_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        low, high = median_interval(rng.exponential(size=25).tolist())
        hits += low <= np.log(2) <= high
    assert hits / 600 >= 0.93  # at least 95 %, less three standard errors


@pytest.mark.parametrize("n", [6, 10, 37, 200])
def test_median_interval_is_the_tightest_that_covers(n):
    values = list(range(n))
    low, high = median_interval(values)
    assert 1 - 2 * binom.cdf(low, n, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(low + 1, n, 0.5) < 0.95
    assert low + high == n - 1


def test_too_few_values_have_no_interval():
    assert median_interval([1.0] * 5) is None
    assert median_interval([]) is None
