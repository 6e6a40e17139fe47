"""The comparison on the same rows: intervals against scipy and closed forms, McNemar's p, several seeds, any metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from tasks.test_task_protocol import TokenClassification

from rmtkd_edge.report.paper import compare
from rmtkd_edge.report.paper.compare import mcnemar_p, mean_interval, paired, pooled_p
from rmtkd_edge.tasks.base import find_task

TASK = find_task("text-classification")


def logits(right: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    return [np.eye(2, dtype=np.float32)[np.where(right, targets, 1 - targets)]]


def runs(targets: np.ndarray, *rights: np.ndarray) -> dict[int, list[np.ndarray]]:
    return {seed: logits(right, targets) for seed, right in enumerate(rights)}


def test_the_interval_is_the_percentile_bootstrap_of_scipy() -> None:
    d = np.random.default_rng(1).choice([-1.0, -0.5, 0.0, 0.5, 1.0], 300, p=[0.05, 0.1, 0.6, 0.15, 0.1])
    found = bootstrap((d,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2))
    ends = found.confidence_interval
    assert mean_interval(d) == pytest.approx((ends.low, ends.high), abs=0.004)


def test_the_interval_of_many_rows_is_the_normal_one() -> None:
    d = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], 5000, p=[0.1, 0.8, 0.1])
    half = 1.96 * d.std() / math.sqrt(len(d))
    assert mean_interval(d) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.03 * half)
    assert mean_interval(np.zeros(10)) == (0.0, 0.0)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 1), (12, 4), (25, 25), (1, 30)])
def test_mcnemars_p_is_the_binomial_tail(one: int, other: int) -> None:
    n, least = one + other, min(one, other)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    first, second = np.arange(60) < one, np.arange(60) >= 60 - other
    assert mcnemar_p(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_pooled_p_is_that_of_one_test_and_holds_for_copies_of_it() -> None:
    assert pooled_p([0.03]) == 0.03 and pooled_p([0.9, 1.0]) == 1.0
    for copies in range(1, 6):
        assert pooled_p([0.01] * copies) >= 0.01
    independent = np.random.default_rng(0).random((4000, 3))
    assert np.mean([pooled_p(row) <= 0.05 for row in independent.tolist()]) <= 0.055


def test_a_planted_difference_is_found_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(4)
    targets = rng.integers(0, 2, 2000)
    base = rng.random(2000) < 0.9
    worse = base & (rng.random(2000) > 0.05)
    found = paired(TASK, "accuracy", runs(targets, worse), runs(targets, base), [targets])
    assert found.difference == pytest.approx(worse.mean() - base.mean()) and found.high < 0 and found.clear
    assert found.p is not None and found.p < 1e-6 and found.seeds == (1, 1) and found.rows == 2000
    turned = paired(TASK, "accuracy", runs(targets, base), runs(targets, worse), [targets])
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-3) and turned.p == found.p
    same = paired(TASK, "accuracy", runs(targets, base), runs(targets, base), [targets])
    assert (same.difference, same.low, same.high, same.p, same.clear) == (0, 0, 0, 1.0, False)


def test_students_that_differ_by_chance_are_seldom_told_apart() -> None:
    told = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        targets, shared = rng.integers(0, 2, 500), rng.random(500) < 0.8
        one, other = (shared ^ (rng.random(500) < 0.05) for _ in range(2))
        found = paired(TASK, "accuracy", runs(targets, one), runs(targets, other), [targets])
        told += found.clear
    assert told <= 9  # 3 expected of 60


def test_several_seeds_are_averaged_row_by_row() -> None:
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 2, 600)
    first, second = [[rng.random(600) < p for _ in range(3)] for p in (0.85, 0.8)]
    found = paired(TASK, "accuracy", runs(targets, *first), runs(targets, *second[:2]), [targets])
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second[:2])) and found.seeds == (3, 2)
    assert (found.low, found.high) == mean_interval(np.mean(first, axis=0) - np.mean(second[:2], axis=0))
    wanted = pooled_p([mcnemar_p(a & ~b, b & ~a) for a, b in zip(first, second[:2], strict=False)])
    assert found.p == wanted


class WithoutRowScores:
    """Accuracy by the whole metric alone, as a metric that is no mean over rows is computed."""

    def __init__(self, task: Any) -> None:
        self.metrics = task.metrics

    def row_scores(self, *_: Any) -> None:
        return None


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "matthews_corrcoef"])
def test_any_metric_is_compared_by_computing_it_of_every_draw(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MOST", 200)
    rng = np.random.default_rng(6)
    targets = rng.integers(0, 2, 300)
    a, b = (rng.random(300) < p for p in (0.9, 0.8))
    task: Any = WithoutRowScores(TASK)
    found = paired(task, metric, runs(targets, a), runs(targets, b), [targets])
    values = [TASK.metrics(logits(right, targets), [targets])[metric] for right in (a, b)]
    assert found.difference == pytest.approx(values[0] - values[1]) and found.p is None
    assert found.low < found.difference < found.high
    if metric == "accuracy":
        quick = paired(TASK, metric, runs(targets, a), runs(targets, b), [targets])
        assert (found.low, found.high) == pytest.approx((quick.low, quick.high), abs=0.02)


def test_a_class_that_draws_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = np.array([0] * 30 + [1])
    monkeypatch.setattr(compare, "MOST", 200)
    found = paired(TASK, "roc_auc", runs(targets, targets >= 0), runs(targets, targets >= 0), [targets])
    assert found is not None and found.difference == found.low == found.high == 0
    one = targets[:1].repeat(20)
    assert paired(TASK, "roc_auc", runs(one, one >= 0), runs(one, one >= 0), [one]) is None


def test_batches_of_other_lengths_are_compared_row_by_row() -> None:
    task: Any = TokenClassification()
    rng = np.random.default_rng(7)
    targets = [rng.integers(0, 3, (6, 4)), rng.integers(0, 3, (5, 7))]
    good = [np.eye(3, dtype=np.float32)[t] for t in targets]
    bad = [np.eye(3, dtype=np.float32)[(t + (rng.random(t.shape) < 0.3)) % 3] for t in targets]
    found = paired(task, "accuracy", {0: bad}, {0: good}, targets)
    wanted = task.metrics(bad, targets)["accuracy"] - 1.0
    assert found.difference == pytest.approx(wanted) and found.low <= wanted <= found.high < 0 and found.rows == 11
