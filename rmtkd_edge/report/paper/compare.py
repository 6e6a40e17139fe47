"""Two methods on the same rows: the difference of a metric with a paired bootstrap interval, and McNemar's test.

Rows are the sample and seeds are held fixed: every draw takes the same rows for all runs of both methods, computes the
metric of each run, and takes the difference of the two means over seeds. The interval says what other rows could have
given for these runs; how much seeds differ is told apart from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtkd_edge.run.outputs import Batches
from rmtkd_edge.tasks.base import Task

Floats = NDArray[np.float64]
RESAMPLES = 9999
LEAST, MOST, WORK = 200, 1000, 10_000_000  # draws of a metric that is no mean over rows; rows times runs times draws
ENDS = (2.5, 97.5)


@dataclass(frozen=True)
class Paired:
    """First methods minus second, of the metric's mean over seeds, in the metric's unit.

    Attributes:
        low, high: ends of the 95 % interval over rows.
        seeds: runs of the first and of the second.
        p: McNemar's exact p (of several seeds by Rueger's rule), None for metrics other than accuracy.
    """

    difference: float
    low: float
    high: float
    rows: int
    seeds: tuple[int, int]
    p: float | None

    @property
    def clear(self) -> bool:
        """Return whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired(
    task: Task[Any],
    metric: str,
    first: dict[int, Batches],
    second: dict[int, Batches],
    targets: Batches,
    seed: int = 0,
) -> Paired | None:
    """Return how two methods differ on the same rows, None where most draws of them do not allow the metric.

    Args:
        first, second: outputs in batches, by the seed of the run.
        targets: of the same batches.
    """
    rows, seeds = sum(map(len, targets)), (len(first), len(second))
    scores = [
        {s: _row_scores(task, metric, outputs, targets) for s, outputs in runs.items()} for runs in (first, second)
    ]
    a, b = ({s: known for s, known in runs.items() if known is not None} for runs in scores)
    if (len(a), len(b)) != seeds:
        found = _metric_interval(task, metric, list(first.values()), list(second.values()), targets, seed)
        return None if found is None else Paired(*found, rows, seeds, None)
    difference = np.mean(list(a.values()), axis=0) - np.mean(list(b.values()), axis=0)
    low, high = mean_interval(difference, seed)
    binary = all(np.isin(found, (0.0, 1.0)).all() for found in (*a.values(), *b.values()))
    p = pooled_p([mcnemar_p(a[i] > b[j], a[i] < b[j]) for i, j in _pairs(a, b)]) if binary else None
    return Paired(float(difference.mean()), low, high, rows, seeds, p)


def mean_interval(differences: Floats, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of differences (n,) over rows.

    Drawing n rows with replacement draws how often each distinct difference comes from a multinomial distribution.
    """
    values, counts = np.unique(differences, return_counts=True)
    n = len(differences)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    low, high = np.percentile(draws @ values / n, ENDS)
    return float(low), float(high)


def mcnemar_p(first_alone: NDArray[np.bool_], second_alone: NDArray[np.bool_]) -> float:
    """Return McNemar's exact two-sided p from the rows (n,) that only one of two models has right."""
    from scipy.stats import binomtest

    one, other = int(first_alone.sum()), int(second_alone.sum())
    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def pooled_p(values: Sequence[float]) -> float:
    """Return one p of several that may depend on each other: K / k times the k-th smallest, k = K / 2 rounded up.

    It holds however they depend (B. Rueger, Metrika 25 (1978) 171-178); of one value it is that value.
    """
    k = -(-len(values) // 2)
    return min(1.0, len(values) / k * sorted(values)[k - 1])


def _pairs(a: dict[int, Floats], b: dict[int, Floats]) -> list[tuple[int, int]]:
    """Return runs of the same seed, or the first of both where no seed is common."""
    return [(s, s) for s in sorted(set(a) & set(b))] or [(min(a), min(b))]


def _row_scores(task: Task[Any], metric: str, outputs: Batches, targets: Batches) -> Floats | None:
    found = [task.row_scores(metric, o, t) for o, t in zip(outputs, targets, strict=True)]
    known = [scores for scores in found if scores is not None]
    return np.concatenate(known) if len(known) == len(found) else None


def _metric_interval(
    task: Task[Any], metric: str, first: list[Batches], second: list[Batches], targets: Batches, seed: int
) -> tuple[float, float, float] | None:
    """Return difference and interval of a metric that is no mean over rows, by computing it of every draw.

    A draw in which the metric cannot be computed (a class without rows) is left out; None where most are.
    """

    def mean(runs: list[Batches], pick: NDArray[np.int64] | None, wanted: Batches) -> float:
        return float(np.mean([task.metrics(_taken(run, pick), wanted).get(metric, np.nan) for run in runs]))

    def difference(pick: NDArray[np.int64] | None) -> float:
        wanted = _taken(targets, pick)
        return mean(first, pick, wanted) - mean(second, pick, wanted)

    n = sum(map(len, targets))
    rng = np.random.default_rng(seed)
    size = int(np.clip(WORK // (n * (len(first) + len(second))), LEAST, MOST))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of draws without some class
        draws = np.array([difference(rng.integers(0, n, n)) for _ in range(size)])
    known = draws[np.isfinite(draws)]
    if 2 * len(known) < size:
        return None
    low, high = np.percentile(known, ENDS)
    return difference(None), float(low), float(high)


def _taken(batches: Batches, pick: NDArray[np.int64] | None) -> Batches:
    """Return batches of the picked rows; of batches with other shapes every row is a batch."""
    if pick is None:
        return batches
    if len(batches) == 1:
        return [batches[0][pick]]
    single = [batch[i : i + 1] for batch in batches for i in range(len(batch))]
    return [single[i] for i in pick]
