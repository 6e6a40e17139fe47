"""The Marchenko-Pastur law against numerical integration, simulation and published tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from rmtkd_edge.errors import UserError
from rmtkd_edge.spectral import law

RATIOS = [1e-4, 0.003, 0.1, 0.5, 0.99, 1.0, 1.5, 4.0, 50.0]


def density(x, sigma2, q):
    """The continuous part of the law, as Marchenko and Pastur (1967) give it."""
    low, high = law.edges(sigma2, q)
    return np.sqrt(max((high - x) * (x - low), 0.0)) / (2 * np.pi * q * sigma2 * x) if x > 0 else 0.0


@pytest.mark.parametrize("q", RATIOS)
def test_cdf_is_the_integral_of_the_density(q):
    low, high = law.edges(2.0, q)
    points = low + (high - low) * np.array([0.1, 0.35, 0.6, 0.9])
    # t = low + u^2 takes away the square-root ends, also the x^(-1/2) of q = 1
    numeric = [quad(lambda u: density(low + u * u, 2.0, q) * 2 * u, 0, np.sqrt(x - low), limit=400)[0] for x in points]
    assert law.cdf(points, 2.0, q) == pytest.approx(np.array(numeric) + max(0.0, 1 - 1 / q), abs=1e-7)


@pytest.mark.parametrize("q", RATIOS)
def test_cdf_ends_and_atom(q):
    low, high = law.edges(0.7, q)
    atom = max(0.0, 1 - 1 / q)
    assert law.cdf([-1.0, high, high * 10], 0.7, q) == pytest.approx([0, 1, 1], abs=1e-12)
    assert law.cdf([0.0, low], 0.7, q) == pytest.approx([atom, atom], abs=1e-7)


@given(st.floats(1e-4, 50), st.floats(1e-6, 1e6), st.lists(st.floats(0, 1), min_size=1, max_size=20).map(sorted))
def test_quantile_inverts_the_cdf(q, sigma2, levels):
    x = law.quantile(levels, sigma2, q)
    assert (np.diff(x) >= -1e-12 * sigma2).all()
    atom = max(0.0, 1 - 1 / q)
    np.testing.assert_allclose(law.cdf(x, sigma2, q), np.maximum(levels, atom), atol=1e-6)


@pytest.mark.parametrize("d,n", [(200, 1000), (300, 150)])
def test_simulated_eigenvalues_follow_the_law(d, n):
    x = np.random.default_rng(0).standard_normal((d, n)) * np.sqrt(3)
    values = np.sort(np.linalg.eigvalsh(x @ x.T / n).clip(0))
    empirical = (np.arange(d) + 1) / d
    above = values > 1e-9
    assert np.abs(law.cdf(values, 3.0, d / n) - empirical)[above].max() < 0.02


def test_tracy_widom_matches_tables():
    # Bejan 2005, beta = 1
    for p, value in ((0.90, 0.4501), (0.95, 0.9793), (0.99, 2.0234), (0.05, -3.1808)):
        assert law.tracy_widom_quantile(p) == pytest.approx(value, abs=0.02)


def test_tw_margin_is_johnstones_scaling():
    n, d = 1000.0, 250.0
    johnstone = (np.sqrt(n) + np.sqrt(d)) * (1 / np.sqrt(n) + 1 / np.sqrt(d)) ** (1 / 3) / n
    assert law.tw_margin(2.0, d / n, n, 0.95) == pytest.approx(2 * law.tracy_widom_quantile(0.95) * johnstone)


@pytest.mark.parametrize(
    "call",
    [
        lambda: law.edges(-1.0, 0.5),
        lambda: law.cdf(1.0, 1.0, 0.0),
        lambda: law.quantile(1.5, 1.0, 0.5),
        lambda: law.tracy_widom_quantile(1.0),
    ],
)
def test_arguments_out_of_range_are_refused(call):
    with pytest.raises(UserError):
        call()
