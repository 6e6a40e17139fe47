"""Null models of a spectrum other than the package's edge rules: how many directions stand above noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Array = NDArray[np.float64]
IMPUTED = 0.25  # share of the singular values above the bulk, for ScreeNOT
SHAPES = np.geomspace(0.1, 1000, 10)  # of the gamma law of noise variances
MIDDLE = 0.2  # left out at both ends of a spectrum
LEVEL = 0.90  # of the null's largest eigenvalue
DRAWS, FEW_DRAWS, NARROW = 20, 3, 128  # of a null: few of one wider than that


def screenot_rank(eigenvalues: Array, n: int) -> int:
    """Return how many singular values lie above the optimal threshold for noise of any law (ScreeNOT, 2009.12297).

    The largest quarter is imputed from the bulk below it; the threshold is where Psi = -4.

    Args:
        eigenvalues: (d,), descending, of X X^T / n with X (d, n).
    """
    values = np.sqrt(eigenvalues[: min(len(eigenvalues), n)])
    gamma = len(eigenvalues) / n if len(eigenvalues) <= n else n / len(eigenvalues)
    k = max(int(IMPUTED * len(values)), 1)
    step = (1 - (np.arange(k) / k) ** (2 / 3)) / (2 ** (2 / 3) - 1)
    bulk = values.copy()
    bulk[:k] = values[k] + step * (values[k] - values[min(2 * k, len(values) - 1)])

    def psi(y: float) -> float:
        gap = y**2 - bulk**2
        phi, slope = np.mean(y / gap), -np.mean((y**2 + bulk**2) / gap**2)
        other, its = gamma * phi + (1 - gamma) / y, gamma * slope - (1 - gamma) / y**2
        return float(y * (slope / phi + its / other) + 4)

    top = float(bulk.max())
    threshold = brentq(psi, top * (1 + 1e-9), top * 100)
    return int((values > threshold).sum())


def gamma_bema_rank(eigenvalues: Array, n: int, seed: int) -> int:
    """Return how many eigenvalues beat noise of gamma-distributed variances (algorithm 2 of 2006.00436).

    The shape is that whose spectrum is closest to the middle of this one, the edge the null's largest eigenvalue.
    """
    rng, d = np.random.default_rng(seed), len(eigenvalues)
    middle = slice(int(MIDDLE * d), max(int((1 - MIDDLE) * min(d, n)), int(MIDDLE * d) + 1))
    fits = []
    for shape in SHAPES:
        null = noise_spectrum(shape, d, n, rng)[middle]
        scale = float(null @ eigenvalues[middle] / (null @ null))
        fits.append((float(((eigenvalues[middle] - scale * null) ** 2).sum()), scale, shape))
    _, scale, shape = min(fits)
    tops = [noise_spectrum(shape, d, n, rng)[0] for _ in range(DRAWS if d <= NARROW else FEW_DRAWS)]
    return int((eigenvalues > scale * np.quantile(tops, LEVEL)).sum())


def noise_spectrum(shape: float, d: int, n: int, rng: np.random.Generator) -> Array:
    """Return the eigenvalues (d,), descending, of noise whose d variances are drawn from Gamma(shape, 1 / shape)."""
    rows = rng.standard_normal((n, d), dtype=np.float32) * np.sqrt(rng.gamma(shape, 1 / shape, d)).astype(np.float32)
    return np.linalg.eigvalsh((rows.T @ rows / n).astype(np.float64))[::-1]


def shared_rank(first: Array, second: Array) -> int:
    """Return how many directions two halves of the data have in common beyond chance.

    Of subspaces of r leading directions each, sum of (u_i v_j)^2 - r^2 / d, at the r up to half of the width where it
    is most.

    Args:
        first: orthonormal rows (k, d) of one half, the leading ones first; `second` those of the other.
    """
    common = ((first @ second.T) ** 2).cumsum(0).cumsum(1).diagonal()[: max(first.shape[1] // 2, 1)]
    ranks = np.arange(1, len(common) + 1)
    return max(round(float((common - ranks**2 / first.shape[1]).max())), 1)
