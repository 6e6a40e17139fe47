"""Ratios with intervals: equality is not called a gain, a known gain is found, drift cancels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.profile.comparison import compare
from rmtkd_edge.profile.ratios import LEAST_ROUNDS, ratio_of_medians
from rmtkd_edge.run.records.profile import WorkloadRecord

WORKLOAD = {"batch": 1, "seq": 128, "scenario": "single_stream"}
Rounds = list[list[float]]
rounds = st.lists(st.lists(st.floats(0.1, 100), min_size=1, max_size=6), min_size=LEAST_ROUNDS, max_size=9)


def sample(seed: int, gain: float = 1.0, count: int = 10, drift: float = 0.3) -> tuple[Rounds, Rounds]:
    """Two models in rounds that share the machine's drift; the first takes `gain` x the second's time."""
    rng = np.random.default_rng(seed)
    shared, noise = np.exp(rng.normal(0, drift, count)), np.exp(rng.normal(0, 0.03, (2, count)))
    first, second = (
        [list(shared[i] * noise[side, i] * factor * rng.lognormal(0, 0.05, 20)) for i in range(count)]
        for side, factor in ((0, gain), (1, 1.0))
    )
    return first, second


@settings(deadline=None)
@given(rounds, st.integers(0, 2**31))
def test_identical_rounds_are_equal(values: Rounds, seed: int) -> None:
    ratio, ends = ratio_of_medians(values, values, seed)
    assert ratio == pytest.approx(1.0)
    assert ends == pytest.approx((1.0, 1.0))


@settings(deadline=None)
@given(rounds, st.floats(0.1, 10), st.integers(0, 2**31))
def test_a_factor_on_everything_is_the_ratio(values: Rounds, factor: float, seed: int) -> None:
    ratio, ends = ratio_of_medians([[factor * v for v in r] for r in values], values, seed)
    assert ratio == pytest.approx(factor)
    assert ends == pytest.approx((factor, factor))


@settings(deadline=None)
@given(rounds, rounds, st.integers(0, 2**31))
def test_swapping_inverts_and_the_ratio_lies_inside(a: Rounds, b: Rounds, seed: int) -> None:
    count = min(len(a), len(b))
    ratio, ends = ratio_of_medians(a[:count], b[:count], seed)
    inverse, other = ratio_of_medians(b[:count], a[:count], seed)
    assert ratio * inverse == pytest.approx(1.0)
    assert ends is not None
    assert other is not None
    assert ends[0] * (1 - 1e-9) <= ratio <= ends[1] * (1 + 1e-9)
    assert other[0] == pytest.approx(1 / ends[1])
    assert ratio_of_medians(a[:count], b[:count], seed) == (ratio, ends)


def test_interval_covers_equality_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        ends = ratio_of_medians(*sample(seed), seed)[1]
        assert ends is not None
        hits += ends[0] <= 1.0 <= ends[1]
    assert hits >= 180  # 95 % of 200 is 190; fewer than 180 would be worse than 4 standard errors


@pytest.mark.parametrize("side", [0, 1])
def test_bursts_in_rounds_of_one_model_are_no_difference(side: int) -> None:
    for seed in range(20):
        both = sample(seed, count=25)
        for i in (7, 20):
            both[side][i] = [3 * v for v in both[side][i]]
        ratio, ends = ratio_of_medians(*both, seed)
        assert ends is not None
        assert ratio == pytest.approx(1.0, abs=0.05)
        assert ends[1] - ends[0] < 0.15  # the plain mean gives 0.26


def test_a_gain_of_two_is_found_through_drift() -> None:
    found = compare(("rmt-kd int8", "original fp32"), WORKLOAD, sample(3, gain=0.5), 0)
    assert found.clear
    assert found.ci95 is not None
    assert found.ci95[0] < 0.5 < found.ci95[1]
    assert found.ci95[1] / found.ci95[0] < 1.2
    assert found.n == 400
    assert found.workload == WorkloadRecord(1, 128)


def test_few_rounds_give_a_ratio_without_interval_and_say_why() -> None:
    found = compare(("a", "b"), WORKLOAD, sample(1, count=LEAST_ROUNDS - 1), 0)
    assert found.ci95 is None
    assert not found.clear
    assert found.why is not None and str(LEAST_ROUNDS) in found.why


@pytest.mark.parametrize(
    ("a", "b"), [([[1.0]], []), ([], []), ([[]], [[1.0]]), ([[0.0]], [[1.0]]), ([[float("nan")]], [[1.0]])]
)
def test_what_cannot_be_compared_is_refused(a: Rounds, b: Rounds) -> None:
    with pytest.raises(ValueError, match="round"):
        ratio_of_medians(a, b, 0)
