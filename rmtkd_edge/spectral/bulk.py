"""What every edge rule starts from: a checked spectrum, its ratio q, and its distance to the Marchenko-Pastur law."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral.law import upper_tail

Array = NDArray[np.float64]
NEGATIVE = 1e-9  # of the largest eigenvalue: more than this below zero is no roundoff of a second moment
NULL = 1e-10  # of the median positive eigenvalue: an exactly null direction, seen through float32 activations


@dataclass(frozen=True)
class Bulk:
    """A spectrum ready to be fitted: `values` (p,) descending, exactly null directions left out, q = p / n_eff.

    The law gives a spectrum of p values only min(p, n_eff) non-zero ones. `scaled` holds those, ascending, divided by
    max(1, q): they follow the law of ratio `ratio` = min(q, 1 / q) at the same noise variance, so that one code fits
    both.
    """

    values: Array
    n: int
    n_eff: float
    null_directions: int

    @property
    def q(self) -> float:
        """Return p / n_eff."""
        return len(self.values) / self.n_eff

    @property
    def ratio(self) -> float:
        """Return min(q, 1 / q)."""
        return min(self.q, 1 / self.q)

    @cached_property
    def scaled(self) -> Array:
        """Return the (m,) eigenvalues that the law's continuous part describes, ascending, divided by max(1, q)."""
        m = min(len(self.values), max(1, round(self.n_eff)))
        kept = self.values[:m][::-1] / max(1.0, self.q)
        return kept[kept > 0]

    @cached_property
    def bin_edges(self) -> Array:
        """Return the inner edges of the histogram: equal bins of log eigenvalue; below and above them, open bins.

        They depend on the spectrum alone, never on a quantile. From the 5th to the 95th percentile, widened by the
        law's own width, so that spikes only fill the overflow bin; width by Freedman and Diaconis, 16 to 128 bins.
        """
        logs = np.log(self.scaled)
        pad = 2 * np.log1p(np.sqrt(self.ratio))
        low, high = np.quantile(logs, [0.05, 0.95]) + np.array([-pad, pad])
        first, third = np.quantile(logs, [0.25, 0.75])
        width = 2 * (third - first) * len(logs) ** (-1 / 3)
        count = 32 if width <= (high - low) / 128 else int(np.ceil((high - low) / width))
        return np.exp(np.linspace(low, high, int(np.clip(count, 16, 128)) + 1))

    @cached_property
    def histogram(self) -> Array:
        """Return the share of `scaled` in every bin, the two open ones included."""
        places = np.searchsorted(self.bin_edges, self.scaled, side="left")
        return np.bincount(places, minlength=len(self.bin_edges) + 1) / len(self.scaled)

    @cached_property
    def losses(self) -> Array:
        """Return the (m,) distances at the noise variances `scaled`; the same variance gives the same number."""
        unique, place = np.unique(self.scaled, return_inverse=True)
        return self.distance(unique)[place]

    def distance_at(self, sigma2: float) -> float:
        """Return the distance at one noise variance; it is kept, since many quantiles come to the same one."""
        if sigma2 not in self._distances:
            self._distances[sigma2] = float(self.distance(sigma2)[0])
        return self._distances[sigma2]

    @cached_property
    def _distances(self) -> dict[float, float]:
        return {}

    def distance(self, sigma2: ArrayLike) -> Array:
        """Return the l2 distance between the histogram and the law's mass per bin, for each noise variance."""
        return distance(self.histogram, self.bin_edges, np.atleast_1d(np.asarray(sigma2, dtype=np.float64)), self.ratio)


def distance(histogram: Array, bin_edges: Array, sigma2: Array, ratio: float) -> Array:
    """Return (s,) l2 distances of `histogram` (b + 2,), open at both ends, to the law at each `sigma2` (s,)."""
    out = np.empty(len(sigma2))
    for start in range(0, len(sigma2), 512):  # bounds the memory at d = 3072 and above
        part = sigma2[start : start + 512, None]
        tails = upper_tail(bin_edges[None, :] / part, ratio)
        tails = np.concatenate([np.ones_like(part), tails, np.zeros_like(part)], axis=1)
        out[start : start + 512] = np.sqrt(((histogram + np.diff(tails, axis=1)) ** 2).sum(axis=1))
    return out


def checked_spectrum(eigenvalues: ArrayLike) -> Array:
    """Return float64 eigenvalues (d,), descending, roundoff below zero set to zero.

    Raises DataError when they are not a vector, not finite, all zero, or negative beyond roundoff.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"A spectrum must be a vector with at least one eigenvalue, its shape is {values.shape}.")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(f"{bad} of {values.size} eigenvalues are NaN or infinite.", "check the activations for NaN")
    values = np.sort(values)[::-1]
    if values[0] <= 0:
        raise DataError(
            "No eigenvalue is positive: the activations at this site are all zero or the matrix is no moment."
        )
    if values[-1] < -NEGATIVE * values[0]:
        raise DataError(
            f"The smallest eigenvalue is {values[-1]:.3g}, the largest {values[0]:.3g}: more than roundoff below zero, "
            "so this is not the second moment of anything.",
        )
    return np.clip(values, 0.0, None)


def make_bulk(eigenvalues: ArrayLike, n: int, n_eff: float | None = None) -> Bulk:
    """Return the Bulk of a spectrum (d,) of a second moment of n samples, worth `n_eff` independent ones (None: n).

    Zeros that n < d samples explain stay (they are the law's atom); zeros beyond these are null directions and are
    left out. Raises DataError for a bad spectrum or n < 2, UserError for n_eff outside [1, n].
    """
    values = checked_spectrum(eigenvalues)
    if n < 2:
        raise DataError(f"A spectrum of {n} sample(s) says nothing about noise.", "give at least 2 calibration samples")
    worth = float(n) if n_eff is None else float(n_eff)
    if not 1 <= worth <= n * (1 + 1e-9):
        raise UserError(f"n_eff must lie between 1 and n = {n}, it is {n_eff}.")
    positive = values > len(values) * np.finfo(np.float64).eps * values[0]
    zeros = int((values <= np.median(values[positive]) * NULL).sum() if positive.any() else len(values))
    zeros = max(zeros, int((~positive).sum()))
    null = max(0, zeros - max(0, len(values) - n))
    return Bulk(values[: len(values) - null].copy(), n, worth, null)
