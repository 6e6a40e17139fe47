"""Metrics of models that give any number of labels, by their scikit-learn names, and 95 % intervals over rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rmtkd_edge.tasks.metrics import LEAST_RESAMPLES, RESAMPLES, WORK, wilson_interval

KNOWN = ("f1_micro", "f1_macro", "average_precision", "subset_accuracy")
HELD = 2**22  # weights of rows that are held at once


def label_set_metrics(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return every known metric that the rows allow.

    A row has the labels whose logit is above zero. `f1_macro` and `average_precision` are means over labels, every
    label counting the same; `subset_accuracy` is the share of rows with exactly the right labels.

    Args:
        logits: (n, labels), n >= 1.
        targets: bool (n, labels).
    """
    once = np.ones((1, len(targets)))
    found = {name: float(_f1(name, logits > 0, targets, once)[0]) for name in ("f1_micro", "f1_macro")}
    found["subset_accuracy"] = float(_right(logits, targets).mean())
    if why_missing("average_precision", targets) is None:
        found["average_precision"] = float(_average_precision(logits, targets, iter(once))[0])
    return {name: found[name] for name in KNOWN if name in found}


def why_missing(metric: str, targets: np.ndarray) -> str | None:
    """Return why rows do not allow a metric, None where they do."""
    absent = np.flatnonzero(~targets.any(0))
    if metric == "average_precision" and len(absent):
        return f"average_precision ranks the rows of every label, and no row has label number {absent[0]}"
    return None


def constant_metrics(targets: np.ndarray) -> dict[str, float]:
    """Return the best that giving every row the same outputs reaches, metric by metric; a full score is left out.

    For micro F1 the k most frequent labels are the best k; for macro F1 it is all of them; tied outputs rank rows by
    chance, with each label's share as the precision.
    """
    rows, labels = targets.shape
    counts = np.sort(targets.sum(0))[::-1].astype(np.float64)
    _, same = np.unique(targets, axis=0, return_counts=True)
    found = {
        "f1_micro": float((2 * counts.cumsum() / (rows * np.arange(1, labels + 1) + counts.sum())).max()),
        "f1_macro": float((2 * counts / (rows + counts)).mean()),
        "subset_accuracy": float(same.max() / rows),
    }
    if why_missing("average_precision", targets) is None:
        found["average_precision"] = float((counts / rows).mean())
    return {name: found[name] for name in KNOWN if found.get(name, 1.0) < 1.0}


def interval(metric: str, logits: np.ndarray, targets: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric, None where the rows do not allow it.

    Wilson's for subset accuracy; percentiles over resampled rows for the others (1000 draws, fewer for many rows).
    """
    if why_missing(metric, targets) is not None:
        return None
    if metric == "subset_accuracy":
        return wilson_interval(int(_right(logits, targets).sum()), len(targets))
    draws = _drawn(len(targets), int(np.clip(WORK // targets.size, LEAST_RESAMPLES, RESAMPLES)), seed)
    if metric == "average_precision":
        found = _average_precision(logits, targets, draws)
    else:
        answers, step = logits > 0, max(1, HELD // len(targets))
        weights = list(draws)
        parts = (np.stack(weights[start : start + step]) for start in range(0, len(weights), step))
        found = np.concatenate([_f1(metric, answers, targets, part) for part in parts])
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


def _drawn(rows: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each row is drawn, (rows,), where as many rows are drawn with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)


def _right(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return ((logits > 0) == targets).all(1)


def _f1(metric: str, answers: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return micro or macro F1 (m,) of rows that count as `weights` (m, n) says; labels that nobody names count 0."""
    hits = 2 * (weights @ (answers & targets))
    named = weights @ (answers.astype(np.float64) + targets)
    if metric == "f1_micro":
        hits, named = hits.sum(1, keepdims=True), named.sum(1, keepdims=True)
    return (hits / np.maximum(named, 1)).mean(1)


def _average_precision(logits: np.ndarray, targets: np.ndarray, draws: Iterator[np.ndarray]) -> np.ndarray:
    """Return the mean average precision over labels (m,), for each of m weights (n,) of rows; NaN without a positive.

    Outputs that are no numbers rank like zero.
    """
    values = -np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e30, neginf=-1e30)
    orders = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, orders, 0)
    positive = np.take_along_axis(targets, orders, 0)
    ends = np.vstack([ordered[1:] != ordered[:-1], np.ones((1, values.shape[1]), bool)])  # of tied rows
    lasts = [np.flatnonzero(column) for column in ends.T]
    found = []
    for weights in draws:
        total = 0.0
        for label, last in enumerate(lasts):
            drawn = weights[orders[:, label]]
            plus, taken = (np.cumsum(part)[last] for part in (drawn * positive[:, label], drawn))
            precision = plus / np.maximum(taken, 1)
            total += precision @ np.diff(plus, prepend=0.0) / plus[-1] if plus[-1] else np.nan
        found.append(total / len(lasts))
    return np.array(found)
