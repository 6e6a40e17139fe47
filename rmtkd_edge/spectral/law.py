"""The Marchenko-Pastur law and what is known around its edge (BBP, Tracy-Widom), as functions of numbers.

`q = d / n` throughout: d features, n independent samples, noise of variance `sigma2` in every entry. For q > 1 the
law has an atom of mass 1 - 1/q at zero. Not done here: fitting anything, heterogeneous or correlated noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv

from rmtkd_edge.errors import UserError

Array = NDArray[np.float64]


def _check(sigma2: float, q: float) -> None:
    if not (np.isfinite(sigma2) and sigma2 > 0):
        raise UserError(f"The noise variance must be positive and finite, it is {sigma2}.")
    if not (np.isfinite(q) and q > 0):
        raise UserError(f"The ratio q = d / n must be positive and finite, it is {q}.")


def edges(sigma2: float, q: float) -> tuple[float, float]:
    """Return (lambda_minus, lambda_plus) = sigma2 (1 -+ sqrt q)^2, the ends of the law's continuous part."""
    _check(sigma2, q)
    root = np.sqrt(q)
    return float(sigma2 * (1 - root) ** 2), float(sigma2 * (1 + root) ** 2)


def upper_tail(t: ArrayLike, q: float) -> Array:
    """Return the mass above `t` of the law with sigma2 = 1 and q <= 1, in closed form.

    With t = 1 + q + 2 sqrt(q) cos(phi), phi in [0, pi], the mass is (phi - sin(phi) / r + (1 - q) arg(1 + r e^(i
    phi)) / q) / pi, r = sqrt q. The rounding error is about 2e-16 / sqrt q, so it stays accurate where the textbook
    form (1 / q) fails.
    """
    r = np.sqrt(q)
    low, high = (1 - r) ** 2, (1 + r) ** 2
    values = np.clip(np.asarray(t, dtype=np.float64), low, high)
    return _tail_of_angle(2 * np.arctan2(np.sqrt(high - values), np.sqrt(values - low)), r)


def _tail_of_angle(phi: Array, r: float) -> Array:
    sine = np.sin(phi)
    turn = np.arctan2(r * sine, 1 + r * np.cos(phi))
    mass = (phi - sine / r + (1 - r * r) / (r * r) * turn) / np.pi
    return np.clip(mass, 0.0, 1.0)


def cdf(x: ArrayLike, sigma2: float, q: float) -> Array:
    """Return the mass at or below `x`, atom at 0 included when q > 1; vectorised, closed form."""
    _check(sigma2, q)
    values = np.asarray(x, dtype=np.float64)
    if q <= 1:
        return 1 - upper_tail(values / sigma2, q)
    # The non-zero eigenvalues of X X^T / n are those of X^T X / n, which is q times a law of ratio 1 / q.
    return np.where(values < 0, 0.0, 1 - upper_tail(values / (sigma2 * q), 1 / q) / q)


def quantile(p: ArrayLike, sigma2: float, q: float) -> Array:
    """Return the smallest x with cdf(x) >= p, for p in [0, 1]; 0 within the atom when q > 1. Vectorised bisection."""
    _check(sigma2, q)
    levels = np.asarray(p, dtype=np.float64)
    if not np.all((levels >= 0) & (levels <= 1)):
        raise UserError("Probabilities of the Marchenko-Pastur law must lie in [0, 1].")
    ratio, scale = (q, sigma2) if q <= 1 else (1 / q, sigma2 * q)
    tail = np.minimum((1 - levels) * max(1.0, q), 1.0)  # mass above, within the continuous part
    r = np.sqrt(ratio)
    low, high = np.zeros_like(tail), np.full_like(tail, np.pi)
    for _ in range(60):  # the angle to the last bit
        middle = (low + high) / 2
        above = _tail_of_angle(middle, r) >= tail
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    # 1 + q + 2 r cos(phi), written without cancellation at the lower edge.
    phi = (low + high) / 2
    values = scale * ((1 - r) ** 2 + 4 * r * np.cos(phi / 2) ** 2)
    return np.where((1 - levels) * max(1.0, q) > 1, 0.0, values) if q > 1 else values


def tracy_widom_quantile(p: float) -> float:
    """Return the p-quantile of the Tracy-Widom law (beta = 1): 0.45 at 0.90, 0.98 at 0.95, 2.02 at 0.99.

    Shifted gamma with matched first three moments, k = 46.446, theta = 0.186054, alpha = 9.84801 (Chiani 2014,
    Journal of Multivariate Analysis 129); within 0.01 of tables for p from 0.01 to 0.999.
    """
    if not 0 < p < 1:
        raise UserError(f"A Tracy-Widom level must lie strictly between 0 and 1, it is {p}.")
    return float(0.186054 * gammaincinv(46.446, p) - 9.84801)


def tw_margin(sigma2: float, q: float, n: float, p: float) -> float:
    """Return what to add to lambda_plus so that pure noise stays below with probability p (Johnstone 2001).

    sigma2 t n^(-2/3) q^(-1/6) (1 + sqrt q)^(4/3), t the Tracy-Widom quantile; negative for p below about 0.83.
    """
    _check(sigma2, q)
    return float(sigma2 * tracy_widom_quantile(p) * n ** (-2 / 3) * q ** (-1 / 6) * (1 + np.sqrt(q)) ** (4 / 3))
