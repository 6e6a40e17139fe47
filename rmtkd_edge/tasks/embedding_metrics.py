"""How near embeddings are to their teacher's, and 95 % intervals over rows.

Targets are (n, width), the teacher's embeddings, or (n, width + 2): the last two columns are then the number of the
pair that a row is one half of, -1 for a row of no pair, and the score of that pair.
"""

from __future__ import annotations

import numpy as np

from rmtkd_edge.tasks import number_metrics
from rmtkd_edge.tasks.metrics import RESAMPLES

COSINE, _, STS = KNOWN = ("cosine_similarity", "spearmanr", "sts_spearmanr")
PAIRS, DRAWN_PAIRS, DRAWS = 100_000, 20_000, 100  # of rows: compared for the metric, and for each draw of its interval
HELD_PAIRS = 8192  # whose embeddings are held at once


def embedding_metrics(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return every known metric that the rows allow.

    `cosine_similarity` is the mean over rows of that with the teacher's embedding, `spearmanr` the rank correlation of
    the cosines of pairs of rows, in both models' embeddings, `sts_spearmanr` that of the cosines of given pairs with
    their scores.
    """
    found = {name: _value(name, outputs, targets) for name in KNOWN}
    return {name: value for name, value in found.items() if value is not None}


def why_missing(metric: str, outputs: np.ndarray, targets: np.ndarray) -> str:
    """Return why rows do not allow a metric, an empty text where they do."""
    if _value(metric, outputs, targets) is not None:
        return ""
    return "it needs pairs with scores that differ (task.pairs)" if metric == STS else "it needs rows that differ"


def constant_metrics(targets: np.ndarray, width: int) -> dict[str, float]:
    """Return the best metrics of giving every row the same embedding."""
    reference = unit(targets[:, :width])
    found = embedding_metrics(np.broadcast_to(reference.mean(0), reference.shape), targets)
    return {name: value if name == COSINE else 0.0 for name, value in found.items()}


def interval(metric: str, outputs: np.ndarray, targets: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric by resampled rows, None where they do not allow it."""
    if _value(metric, outputs, targets) is None:
        return None
    rng = np.random.default_rng(seed)
    if metric == STS:
        return number_metrics.interval("spearmanr", *scored_pairs(outputs, targets), seed)
    if metric == COSINE:
        rows = cosines(outputs, targets)
        draws = [float(rows[rng.integers(0, len(rows), len(rows))].mean()) for _ in range(RESAMPLES)]
    else:
        mine, reference = _rows(outputs, targets)
        drawn = (rng.integers(0, len(mine), (2, DRAWN_PAIRS)) for _ in range(DRAWS))
        kept = (pairs[:, pairs[0] != pairs[1]] for pairs in drawn)
        resampled = (rng.integers(0, len(mine), len(mine))[pairs] for pairs in kept)
        draws = [_agreement(mine, reference, pairs[:, pairs[0] != pairs[1]]) for pairs in resampled]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return float(low), float(high)


def cosines(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cosine (n,) of every row that belongs to no pair with the teacher's embedding."""
    mine, reference = _rows(outputs, targets)
    found: np.ndarray = (mine * reference).sum(1)
    return found


def scored_pairs(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine of the two rows of every whole pair, and its score, float64 (pairs,)."""
    tail = targets[:, outputs.shape[1] :]
    if not tail.shape[1]:
        return np.zeros(0), np.zeros(0)
    rows = np.flatnonzero(tail[:, 0] >= 0)
    rows = rows[np.argsort(tail[rows, 0], kind="stable")]
    _, first, count = np.unique(tail[rows, 0], return_index=True, return_counts=True)
    first = first[count == 2]
    a, b = rows[first], rows[first + 1]
    mine = unit(outputs)
    return (mine[a] * mine[b]).sum(1), tail[a, 1].astype(np.float64)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return rows (n, width) of length 1, float64; zeros stay."""
    found: np.ndarray = vectors.astype(np.float64)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-300)


def _rows(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of rows that belong to no pair, and the teacher's, of length 1."""
    width = outputs.shape[1]
    alone = targets[:, width] < 0 if targets.shape[1] > width else np.ones(len(targets), bool)
    return unit(outputs[alone]), unit(targets[alone, :width])


def _value(metric: str, outputs: np.ndarray, targets: np.ndarray) -> float | None:
    """Return a metric, None where the rows do not allow it."""
    if metric == STS:
        found, scores = scored_pairs(outputs, targets)
        return number_metrics.number_metrics(found, scores).get("spearmanr") if len(scores) else None
    mine, reference = _rows(outputs, targets)
    if metric == COSINE:
        return float((mine * reference).sum(1).mean()) if len(mine) else None
    value = _agreement(mine, reference, _pairs(len(mine)))
    return None if np.isnan(value) else value


def _pairs(rows: int) -> np.ndarray:
    """Return the numbers (2, pairs) of the rows that are compared: all pairs, or drawn ones where these are many."""
    if rows * (rows - 1) // 2 <= PAIRS:
        return np.stack(np.triu_indices(rows, 1))
    pairs = np.random.default_rng(0).integers(0, rows, (2, PAIRS))
    return pairs[:, pairs[0] != pairs[1]]


def _similarities(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the products of the vectors of pairs (2, n), of some at a time."""
    parts = (pairs[:, start : start + HELD_PAIRS] for start in range(0, pairs.shape[1], HELD_PAIRS))
    found = [np.einsum("ij,ij->i", vectors[a], vectors[b]) for a, b in parts]
    return np.concatenate([np.zeros(0), *found])


def _agreement(mine: np.ndarray, reference: np.ndarray, pairs: np.ndarray) -> float:
    """Return the rank correlation of the cosines of pairs of rows, NaN where all the teacher's are the same."""
    found, wanted = (_similarities(side, pairs) for side in (mine, reference))
    if len(wanted) < 2 or np.ptp(wanted) < 1e-9:
        return float("nan")
    return number_metrics.number_metrics(np.where(np.ptp(found) < 1e-9, 0.0, found), wanted)["spearmanr"]
