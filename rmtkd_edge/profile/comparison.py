"""Is one model faster than another? Ratios of medians with intervals, from rounds that both ran in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_ROUNDS = 5
RESAMPLES = 4000
TRIM = 0.2  # of the rounds at each end: another process's burst falls into a round of one model alone
Rounds = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Comparison:
    """candidate / baseline: below 1 the candidate takes less. `ci95` is None where it cannot be had, and `why` says so.

    n: values of the candidate and the baseline together. clear: the interval leaves out 1.
    """

    candidate: str
    baseline: str
    metric: str
    batch: int
    seq: int | None
    ratio: float
    ci95: tuple[float, float] | None
    n: int
    rounds: int
    why: str = ""

    @property
    def clear(self) -> bool:
        """Whether the interval excludes equality."""
        return self.ci95 is not None and not self.ci95[0] <= 1.0 <= self.ci95[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as it stands in a profile's JSON."""
        out: dict[str, Any] = {"candidate": self.candidate, "baseline": self.baseline, "metric": self.metric}
        out["workload"] = {"batch": self.batch, "seq": self.seq}
        out.update(ratio=self.ratio, ci95=list(self.ci95) if self.ci95 else None, n=self.n, rounds=self.rounds)
        return {**out, "clear": self.clear, **({"why": self.why} if self.why else {})}


def ratio_of_medians(candidate: Rounds, baseline: Rounds, seed: int) -> tuple[float, tuple[float, float] | None]:
    """Return the trimmed geometric mean over rounds of median(candidate) / median(baseline), and its 95 % interval.

    candidate, baseline: positive values by round, in the same unit; round i of both ran one after the other, so that
    the machine's drift cancels within a round. A fifth of the rounds is left out at each end (Yuen, Biometrika 61,
    1974): under load the interval holds more often so. It (None below 5 rounds) bootstraps whole
    rounds; its percentiles are spread for the small number of rounds (the expanded percentile interval of Hesterberg,
    arXiv 1411.5279). Raises ValueError for unpaired, empty or non-positive rounds.
    """
    sides = [[np.asarray(values, float) for values in side] for side in (candidate, baseline)]
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise ValueError(f"rounds come in pairs: {len(sides[0])} of the candidate, {len(sides[1])} of the baseline")
    if any(not len(r) or not np.isfinite(r).all() or r.min() <= 0 for side in sides for r in side):
        raise ValueError("every round needs values, all finite and positive")
    logs = np.log([np.median(a) / np.median(b) for a, b in zip(*sides, strict=True)])
    ratio = float(np.exp(trimmed_mean(logs)))
    if len(logs) < LEAST_ROUNDS:
        return ratio, None
    drawn = resampled(logs, np.random.default_rng(seed))
    tail = small_sample_tail(kept(len(logs)))
    low, high = np.exp(np.quantile(drawn, (tail, 1.0 - tail)))
    return ratio, (float(low), float(high))


def resampled(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the trimmed means (RESAMPLES,) of bootstrap samples of the values (n,)."""
    return trimmed_mean(values[rng.integers(0, len(values), (RESAMPLES, len(values)))])


def trimmed_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean along the last axis without the TRIM lowest and the TRIM highest values."""
    left = kept(values.shape[-1])
    cut = (values.shape[-1] - left) // 2
    return np.sort(values, axis=-1)[..., cut : cut + left].mean(axis=-1)


def kept(rounds: int) -> int:
    """Return how many rounds a trimmed mean is taken over, which are its degrees of freedom and one (Yuen)."""
    return rounds - 2 * int(TRIM * rounds)


def small_sample_tail(rounds: int) -> float:
    """Return the share cut off at each end so that a bootstrap of few rounds covers 95 %.

    Normal tail at sqrt(n / (n - 1)) t(0.975, n - 1), Student's quantile by its Cornish-Fisher expansion.
    """
    z, nu = NormalDist().inv_cdf(0.975), rounds - 1
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return NormalDist().cdf(-math.sqrt(rounds / nu) * t)


def compare(
    candidate: str,
    baseline: str,
    metric: str,
    workload: dict[str, Any],
    values: tuple[Rounds, Rounds],
    seed: int,
) -> Comparison:
    """Return the comparison of two labels under one workload; `values` are those of the candidate and of the baseline."""
    ratio, ends = ratio_of_medians(*values, seed)
    why = "" if ends else f"an interval needs {LEAST_ROUNDS} rounds, there are {len(values[0])}"
    n = sum(len(r) for side in values for r in side)
    return Comparison(candidate, baseline, metric, workload["batch"], workload.get("seq"), ratio, ends, n, len(values[0]), why)
