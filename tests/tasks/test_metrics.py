"""Metrics by their definitions and by hand-made cases; intervals hold the truth as often as they say."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sk

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import metrics
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.classification import check_metric
from rmtkd_edge.tasks.scoring import score

TASK = find_task("text-classification")


def draw(rows: int, classes: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets; `signal` is added to the right label's logit."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)
    return (rng.normal(size=(rows, classes)) + signal * np.eye(classes)[targets]).astype(np.float32), targets


def test_four_rows_counted_by_hand() -> None:
    logits = np.array([[2, 1], [1, 2], [0, 3], [1, 0.5]], np.float32)  # answers 0 1 1 0, log-odds -1 1 3 -0.5
    found = metrics.classification_metrics(logits, np.array([0, 1, 0, 1]))
    assert found["accuracy"] == 0.5 and found["f1"] == 0.5 and found["f1_macro"] == 0.5
    assert found["matthews_corrcoef"] == 0.0 and found["roc_auc"] == 0.5  # 1 > -1, -0.5 > -1; 3 beats both
    assert tuple(found) == metrics.KNOWN


def test_the_last_label_is_the_positive_one() -> None:
    logits = np.array([[0, 1], [0, 1], [0, 1], [1, 0]], np.float32)
    found = metrics.classification_metrics(logits, np.array([1, 0, 0, 0]))
    assert found["f1"] == 0.5  # precision 1/3, recall 1
    assert found["f1_macro"] == pytest.approx((0.5 + 0.5) / 2)  # of label 0: precision 1, recall 1/3


def auc_by_pairs(values: np.ndarray, positive: np.ndarray) -> float:
    plus, minus = values[positive], values[~positive]
    return float(np.mean((plus[:, None] > minus) + 0.5 * (plus[:, None] == minus)))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(8, 60), st.integers(0, 999))
def test_metrics_are_those_of_the_definitions(classes: int, rows: int, seed: int) -> None:
    logits, targets = draw(rows, classes, seed)
    logits = np.round(logits)  # ties
    targets[:classes] = np.arange(classes)
    found, answers = metrics.classification_metrics(logits, targets), logits.argmax(1)
    assert found["accuracy"] == sk.accuracy_score(targets, answers)
    assert found["f1_macro"] == sk.f1_score(targets, answers, average="macro")
    assert found["matthews_corrcoef"] == sk.matthews_corrcoef(targets, answers)
    if classes == 2:
        assert found["f1"] == sk.f1_score(targets, answers)
        assert found["roc_auc"] == pytest.approx(auc_by_pairs(logits[:, 1] - logits[:, 0], targets == 1))
    else:
        assert "f1" not in found
        assert found["roc_auc"] == pytest.approx(
            sk.roc_auc_score(targets, softmax(logits.astype(float), 1), multi_class="ovr")
        )


@pytest.mark.parametrize("classes", [2, 3])
def test_what_rows_do_not_allow_is_left_out_and_refused_with_the_reason(classes: int) -> None:
    logits, targets = draw(20, classes, 0)
    targets[:] = 0
    found = metrics.classification_metrics(logits, targets)
    assert "roc_auc" not in found and {"accuracy", "f1_macro", "matthews_corrcoef"} <= set(found)
    assert metrics.interval("roc_auc", logits, targets) is None
    with pytest.raises(DataError, match=r"roc_auc cannot be computed on the 20 rows of the test split.*label number 1"):
        score(TASK, "roc_auc", "test", [logits], [targets])
    if classes == 3:
        with pytest.raises(DataError, match="f1 is for two labels, the data have 3") as caught:
            score(TASK, "f1", "validation", [logits], [targets])
        assert "task.metric" in caught.value.hint and "f1_macro" in caught.value.hint


def test_a_metric_that_the_data_do_not_allow_is_refused_before_anything_is_trained() -> None:
    task = Task(name="t", text=["text"], metric="f1")
    with pytest.raises(DataError, match=r"on the validation split: f1 is for two labels.*a, b, c"):
        check_metric(task, ["a", "b", "c"], "validation", np.arange(3))
    check_metric(task, ["a", "b"], "validation", np.zeros(3, np.int64))
    check_metric(task.model_copy(update={"metric": None}), ["a"], "validation", np.zeros(3, np.int64))


def test_a_score_takes_batches_and_names_its_primary_metric() -> None:
    logits, targets = draw(50, 2, 1)
    outputs, answers = [logits[:30], logits[30:]], [targets[:30], targets[30:]]
    found = score(TASK, None, "validation", outputs, answers)
    assert (found.split, found.rows, found.primary, found.interval) == ("validation", 50, "accuracy", None)
    assert found.value == found.values["accuracy"] == float((logits.argmax(1) == targets).mean())
    other = score(TASK, "roc_auc", "test", outputs, answers, interval=True)
    assert other.values == found.values and other.value == found.values["roc_auc"] and other.interval is not None
    assert other.interval[0] < other.value < other.interval[1]
    with pytest.raises(DataError, match="the test split has no rows"):
        score(TASK, None, "test", [], [])


def test_outputs_that_are_no_numbers_rank_nothing() -> None:
    targets = np.arange(10) % 2
    assert metrics.classification_metrics(np.full((10, 2), np.nan, np.float32), targets)["roc_auc"] == 0.5
    odds = np.stack([np.zeros(10), np.where(targets, np.inf, 0)], 1).astype(np.float32)
    assert metrics.classification_metrics(odds, targets)["roc_auc"] == 1.0


# --- intervals ---


def test_wilson_s_interval_is_the_published_one() -> None:
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert metrics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert metrics.wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    for counts in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="cannot be"):
            metrics.wilson_interval(*counts)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("metric", ["f1", "f1_macro", "matthews_corrcoef", "roc_auc"])
def test_resampled_intervals_are_those_of_resampled_rows(metric: str, classes: int) -> None:
    if metric == "f1" and classes == 3:
        return
    logits, targets = draw(200, classes, 2)
    logits = np.round(logits, 1)
    found = metrics.interval(metric, logits, targets, seed=3)
    assert found == metrics.interval(metric, logits, targets, seed=3) != metrics.interval(metric, logits, targets, 4)
    rng = np.random.default_rng(9)
    drawn = [rng.integers(0, 200, 200) for _ in range(400)]
    plain = [metrics.classification_metrics(logits[rows], targets[rows])[metric] for rows in drawn]
    assert found == pytest.approx(tuple(np.percentile(plain, (2.5, 97.5))), abs=0.03)


@pytest.mark.parametrize("metric", ["accuracy", "matthews_corrcoef", "roc_auc"])
def test_intervals_hold_the_truth_about_95_times_in_100(metric: str) -> None:
    truth = metrics.classification_metrics(*draw(200_000, 2, 99))[metric]
    intervals = [metrics.interval(metric, *draw(150, 2, seed)) for seed in range(120)]
    held = sum(found is not None and found[0] <= truth <= found[1] for found in intervals)
    assert 107 <= held <= 120  # of 120; fewer than 107 come once in 300 where 95 % are right


@pytest.mark.parametrize(("classes", "metric"), [(2, "roc_auc"), (10, "roc_auc"), (100, "f1_macro")])
def test_an_interval_of_ten_thousand_rows_takes_no_time(classes: int, metric: str) -> None:
    logits, targets = draw(10_000, classes, 0)
    start = time.process_time()
    metrics.interval(metric, logits, targets)
    assert time.process_time() - start < 3  # below one second where nothing else runs


def test_the_scores_of_rows_are_those_of_the_metric_that_is_their_mean() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((50, 3)), rng.integers(0, 3, 50)
    scores = TASK.row_scores("accuracy", logits, targets)
    assert (
        scores is not None
        and set(scores) == {0.0, 1.0}
        and scores.mean() == TASK.metrics([logits], [targets])["accuracy"]
    )
    assert all(TASK.row_scores(metric, logits, targets) is None for metric in metrics.KNOWN if metric != "accuracy")
