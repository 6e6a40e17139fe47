"""Metrics of classifiers by their scikit-learn names, and 95 % intervals over rows."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

KNOWN = ("accuracy", "f1", "f1_macro", "matthews_corrcoef", "roc_auc")
SHARES = ("accuracy", "f1", "f1_macro", "roc_auc")
RESAMPLES = 1000
LEAST_RESAMPLES = 200
WORK = 50_000_000  # rows times classes times resamples that an interval of an AUC may take: half a second


def classification_metrics(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return every known metric that the rows allow.

    The positive class of `f1` and of a binary `roc_auc` is the last one; of several classes `roc_auc` is the mean of
    one class against the rest.

    Args:
        logits: (n, classes), n >= 1.
        targets: int64 (n,), places of the labels.
    """
    from sklearn import metrics

    answers = logits.argmax(1)
    found = {
        "accuracy": float((answers == targets).mean()),
        "f1_macro": float(metrics.f1_score(targets, answers, average="macro", zero_division=0)),
        "matthews_corrcoef": float(metrics.matthews_corrcoef(targets, answers)),
    }
    if why_missing("f1", logits.shape[1], targets) is None:
        found["f1"] = float(metrics.f1_score(targets == 1, answers == 1, zero_division=0))
    if why_missing("roc_auc", logits.shape[1], targets) is None:
        values, hits = _one_against_rest(logits, targets)
        found["roc_auc"] = float(metrics.roc_auc_score(hits.squeeze(1) if hits.shape[1] == 1 else hits, values))
    return {name: found[name] for name in KNOWN if name in found}


def why_missing(metric: str, classes: int, targets: np.ndarray) -> str | None:
    """Return why rows do not allow a metric, None where they do."""
    if metric == "f1" and classes != 2:
        return f"f1 is for two labels, the data have {classes} (f1_macro is for any number)"
    if metric == "roc_auc":
        counts = np.bincount(targets, minlength=classes)
        absent = np.flatnonzero(counts == 0)
        if len(absent):
            return f"roc_auc compares every label with the others, and no row has label number {absent[0]}"
    return None


def interval(metric: str, logits: np.ndarray, targets: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric, None where the rows do not allow it.

    Wilson's for accuracy; percentiles over resampled rows for the others (1000 draws, fewer for an AUC of many rows).
    """
    if why_missing(metric, logits.shape[1], targets) is not None:
        return None
    if metric == "accuracy":
        return wilson_interval(int((logits.argmax(1) == targets).sum()), len(targets))
    rng = np.random.default_rng(seed)
    if metric == "roc_auc":
        found = _resampled_auc(*_one_against_rest(logits, targets), rng)
    else:
        found = _resampled_counts(metric, logits.shape[1], logits.argmax(1), targets, rng)
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, without continuity correction, both ends in [0, 1].

    Source: E. B. Wilson, JASA 22 (1927) 209-212.

    Raises:
        ValueError: for counts that cannot be.
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


def _one_against_rest(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what ranks the rows, and which are positive, for every class against the rest; of two for the last alone.

    Both (n, classes or 1). Outputs that are no numbers rank like zero.
    """
    from scipy.special import softmax

    values = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e30, neginf=-1e30)
    classes = values.shape[1]
    if classes == 2:  # the log-odds rank as the probability does, and never round to 1
        return values[:, 1:] - values[:, :1], (targets == 1)[:, None]
    return softmax(values, axis=1), targets[:, None] == np.arange(classes)


def _resampled_auc(values: np.ndarray, hits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the mean AUC of resampled rows; NaN where a draw holds no positive, or no negative, row of a class."""
    rows, classes = values.shape
    resamples = int(np.clip(WORK // (rows * classes), LEAST_RESAMPLES, RESAMPLES))
    orders = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, orders, 0)
    first = np.vstack([np.ones((1, classes), bool), ordered[1:] != ordered[:-1]])  # of tied rows
    starts = [np.flatnonzero(first[:, c]) for c in range(classes)]
    positive = np.take_along_axis(hits, orders, 0)
    found = np.empty(resamples)
    for i in range(resamples):
        times = np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)
        total = 0.0
        for c in range(classes):
            drawn = times[orders[:, c]]
            plus = np.add.reduceat(drawn * positive[:, c], starts[c])
            minus = np.add.reduceat(drawn, starts[c]) - plus
            pairs = plus.sum() * minus.sum()
            total += plus @ (np.cumsum(minus) - minus / 2) / pairs if pairs else np.nan
        found[i] = total / classes
    return found


def _resampled_counts(
    metric: str, classes: int, answers: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a metric of the confusion matrices of resampled rows.

    Drawing rows with replacement draws a matrix's cells from a multinomial distribution.
    """
    from scipy.sparse import csr_array

    cells, counts = np.unique(targets * classes + answers, return_counts=True)
    draws = rng.multinomial(len(targets), counts / len(targets), size=RESAMPLES).astype(np.float64)
    places = np.arange(len(cells))
    by_target, by_answer = (
        csr_array((np.ones(len(cells)), (places, key)), shape=(len(cells), classes))
        for key in (cells // classes, cells % classes)
    )
    true, predicted = draws @ by_target, draws @ by_answer
    hit = (draws * (cells // classes == cells % classes)) @ by_target
    if metric == "matthews_corrcoef":
        return _matthews(true, predicted, hit.sum(1), len(targets))
    present = true + predicted
    f1 = 2 * hit / np.maximum(present, 1)
    return f1[:, -1] if metric == "f1" else f1.sum(1) / (present > 0).sum(1)


def _matthews(true: np.ndarray, predicted: np.ndarray, right: np.ndarray, rows: int) -> np.ndarray:
    """Return Matthews' correlation of rows by true and predicted class (m, classes) and of rows that are right (m,)."""
    spread = (rows**2 - (true**2).sum(1)) * (rows**2 - (predicted**2).sum(1))
    shared = right * rows - (true * predicted).sum(1)
    return np.where(spread > 0, shared / np.sqrt(np.maximum(spread, 1)), 0.0)
