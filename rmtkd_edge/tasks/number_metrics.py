"""How well numbers are predicted: correlations and R2, and 95 % intervals over rows."""

from __future__ import annotations

import numpy as np

from rmtkd_edge.tasks.metrics import LEAST_RESAMPLES, RESAMPLES, WORK

KNOWN = ("spearmanr", "pearsonr", "r2")
HELD = 2**22  # drawn numbers that are held at once


def number_metrics(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return every known metric, none where all targets are the same.

    A correlation with outputs that are all the same is 0: they rank nothing.

    Args:
        outputs, targets: (n,), n >= 1.
    """
    if is_constant(targets):
        return {}
    rows = outputs[None].astype(np.float64), targets[None].astype(np.float64)
    return {name: float(_values(name, *rows)[0]) for name in KNOWN}


def is_constant(targets: np.ndarray) -> bool:
    """Return whether all targets are the same, so that no metric is defined."""
    return bool(targets.min() == targets.max())


def interval(metric: str, outputs: np.ndarray, targets: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric by resampled rows (1000 draws, fewer for many rows), None without one."""
    if is_constant(targets):
        return None
    rows, rng = len(targets), np.random.default_rng(seed)
    draws, step = int(np.clip(WORK // rows, LEAST_RESAMPLES, RESAMPLES)), max(1, HELD // rows)
    found = []
    for start in range(0, draws, step):
        drawn = rng.integers(0, rows, (min(step, draws - start), rows))
        found.append(_values(metric, *(part.astype(np.float64)[drawn] for part in (outputs, targets))))
    low, high = np.nanpercentile(np.concatenate(found), (2.5, 97.5))
    return float(low), float(high)


def _values(metric: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return a metric of each row of (m, n), NaN where its targets are all the same."""
    from scipy.stats import rankdata

    if metric == "r2":
        off = ((targets - outputs) ** 2).sum(1)
        found = 1.0 - off / np.maximum(((targets - targets.mean(1, keepdims=True)) ** 2).sum(1), 1e-300)
    elif metric == "spearmanr":
        found = _correlation(rankdata(outputs, axis=1), rankdata(targets, axis=1))
    else:
        found = _correlation(outputs, targets)
    return np.where(np.ptp(targets, axis=1) > 0, found, np.nan)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each row of (m, n), 0 where one is constant."""
    spread = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0)
    a, b = (part - part.mean(1, keepdims=True) for part in (a, b))
    norms = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(spread, (a * b).sum(1) / np.where(spread, norms, 1.0), 0.0)
