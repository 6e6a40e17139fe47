"""The edge rules on what is known: noise, planted spikes, correlated samples, heavy tails, d > n."""

import numpy as np
import pytest
from scipy.signal import lfilter

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral import RULES, EdgeFit, fit_edge
from rmtkd_edge.spectral.edge import POINT

GLOBAL = {"rule": "window", "delta": 1.0, "margin_level": 0.999}
BEMA = {"rule": "bema", "margin_level": 0.999}


def spectrum(x: np.ndarray) -> np.ndarray:
    """Eigenvalues, ascending, of X X^T / n for X (d, n)."""
    return np.linalg.eigvalsh(x @ x.T / x.shape[1])


def noise(d: int, n: int, seed: int = 0, sigma2: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((d, n)) * np.sqrt(sigma2)


def spiked(d: int, n: int, spikes: list[float], seed: int = 0) -> np.ndarray:
    """Noise of variance 1 with the first population eigenvalues replaced, rotated."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((d, n))
    x[: len(spikes)] *= np.sqrt(np.array(spikes))[:, None]
    return np.linalg.qr(rng.standard_normal((d, d)))[0] @ x


@pytest.mark.parametrize("options", [GLOBAL, BEMA], ids=["window", "bema"])
@pytest.mark.parametrize("d,n", [(64, 4000), (200, 1000), (200, 220), (300, 150)])
def test_pure_noise_keeps_nothing_and_gives_sigma2_back(d, n, options):
    for seed in range(3):
        fit = fit_edge(spectrum(noise(d, n, seed, 2.5)), n, **options)
        assert fit.rank == 0
        assert fit.sigma2 == pytest.approx(2.5, rel=0.1)
        assert fit.lambda_minus <= fit.sigma2 <= fit.lambda_plus


def test_the_default_window_keeps_nothing_of_noise_at_the_default_ratio():
    # SST-2's 10 % at d = 768: q = 0.114
    fit = fit_edge(spectrum(noise(200, 1754)), 1754, margin_level=0.999)
    assert fit.rank == 0


@pytest.mark.parametrize(
    "options", [GLOBAL, BEMA, {"quantile": 0.5, "margin_level": 0.999}], ids=["global", "bema", "median"]
)
def test_spikes_above_bbp_are_found_and_below_are_not(options):
    d, n = 200, 2000
    threshold = 1 + np.sqrt(d / n)  # Baik, Ben Arous, Peche 2005, noise of variance 1
    above, below = [400.0, 40.0, 8.0, 2.2 * threshold], [0.6 * threshold, 0.7 * threshold]
    for seed in range(3):
        fit = fit_edge(spectrum(spiked(d, n, above + below, seed)), n, **options)
        assert fit.rank == len(above)


def test_spikes_are_found_with_more_features_than_samples():
    x = spiked(400, 160, [60.0, 30.0, 20.0])
    for options in (GLOBAL, BEMA):
        fit = fit_edge(spectrum(x), 160, **options)
        assert (fit.rank, fit.null_directions) == (3, 0)
        assert fit.q == 2.5
        assert "> 1" in fit.note


def test_scaling_the_data_scales_the_fit():
    values = spectrum(spiked(100, 700, [9.0, 5.0]))
    for rule in ("window", "bema", "explained-variance"):
        one, thousand = (fit_edge(values * s, 700, rule=rule) for s in (1.0, 1000.0))
        assert one.rank == thousand.rank
        assert thousand.lambda_plus == pytest.approx(1000 * one.lambda_plus)


def test_order_of_eigenvalues_does_not_matter():
    values = spectrum(noise(50, 300))
    assert fit_edge(values, 300) == fit_edge(np.random.default_rng(0).permutation(values), 300)


def test_correlated_samples_need_the_effective_number():
    """White AR(1) noise: n counts samples that are not worth one each, and the plain edge keeps what is noise."""
    n, d, rho = 4096, 128, 0.9
    drive = noise(d, n + 200) * np.sqrt(1 - rho**2)
    x = lfilter([1.0], [1.0, -rho], drive, axis=1)[:, 200:]
    values = spectrum(x)
    n_eff = n * (1 - rho**2) / (1 + rho**2)
    naive, aware = fit_edge(values, n), fit_edge(values, n, n_eff=n_eff)
    assert naive.rank > d / 8
    assert aware.rank < naive.rank / 5
    assert fit_edge(values, n, n_eff=n_eff, delta=1.0).rank <= 2
    assert aware.q == pytest.approx(d / n_eff)
    assert fit_edge(spectrum(x[:, ::50]), x[:, ::50].shape[1], **BEMA).rank == 0


def test_heavy_tails_need_scaled_rows():
    """Elliptical noise, a random scale for every sample: no Marchenko-Pastur law until rows are scaled."""
    d, n = 128, 1100
    rng = np.random.default_rng(3)
    x = noise(d, n) * np.sqrt(3 / rng.chisquare(3, size=n))
    scaled = x / np.linalg.norm(x, axis=0) * np.sqrt(d)
    assert fit_edge(spectrum(x), n, **BEMA).rank >= 3
    assert fit_edge(spectrum(scaled), n, **BEMA).rank == 0
    assert fit_edge(spectrum(scaled), n, **GLOBAL).rank == 0


def test_exactly_null_directions_are_left_out():
    d, n = 64, 800
    x = noise(d, n).astype(np.float32)
    x -= x.mean(0)  # what LayerNorm does: one exactly null direction, up to float32
    fit = fit_edge(spectrum(x.astype(np.float64)), n, quantile=0.0, delta=0.0)
    assert fit.null_directions == 1
    assert fit.q == (d - 1) / n
    assert fit.sigma2 > 0.1  # the smallest non-null eigenvalue, not the null one


def test_a_law_that_has_shrunk_to_a_point_says_so():
    values = np.linspace(1, 2, 100)
    assert "shrunk to a point" in fit_edge(values, 100_000).note
    assert "shrunk" not in fit_edge(values, int(100 / POINT) - 100).note
    # and then the rank is what the quantile leaves
    assert fit_edge(values, 10**9, quantile=0.3, delta=0.0).rank == pytest.approx(70, abs=1)


def test_paper_rule_fits_clean_noise_and_says_where_it_went():
    fit = fit_edge(spectrum(noise(200, 1000)), 1000, rule="paper")
    assert fit.sigma2 == pytest.approx(1.0, rel=0.05)
    assert "local search" in fit.note


def test_paper_rule_stays_where_it_starts_under_huge_spikes():
    values = np.append(spectrum(noise(200, 200_000)), [1e4, 1e5])
    start = np.sort(values)[100]
    assert fit_edge(values, 200_000, rule="paper").sigma2 == pytest.approx(start, rel=0.1)


def test_explained_variance_is_the_smallest_rank_that_reaches_the_share():
    values = np.array([5.0, 3.0, 1.0, 0.5, 0.5])
    for share, rank in ((0.5, 1), (0.51, 2), (0.8, 2), (0.9, 3), (1.0, 5)):
        fit = fit_edge(values, 100, rule="explained-variance", explained=share)
        assert fit.rank == rank
        assert fit.distance is None and fit.quantile is None


@pytest.mark.parametrize("rule", [r for r in RULES if r != "parallel"])
def test_every_rule_handles_small_and_tied_spectra(rule):
    for values in ([1.0], [1.0, 1.0], [2.0] * 40, [0.0, 0.0, 3.0], [1e-30, 1e30], list(np.geomspace(1e-8, 1e8, 30))):
        fit = fit_edge(np.array(values), 50, rule=rule)
        assert isinstance(fit, EdgeFit)
        assert 0 <= fit.rank <= len(values)
        assert np.isfinite([fit.sigma2, fit.lambda_plus, fit.lambda_minus, fit.margin, fit.q]).all()


@pytest.mark.parametrize(
    "values,n,words",
    [
        ([1.0, np.nan], 10, "NaN"),
        ([1.0, np.inf], 10, "infinite"),
        ([0.0, 0.0], 10, "all zero"),
        ([1.0, -0.1], 10, "below zero"),
        ([], 10, "at least one"),
        ([[1.0, 2.0]], 10, "vector"),
        ([1.0, 2.0], 1, "sample"),
    ],
)
def test_degenerate_spectra_are_refused(values, n, words):
    for rule in RULES:
        with pytest.raises(DataError, match=words):
            fit_edge(np.array(values), n, rule=rule)


def test_roundoff_below_zero_is_zero():
    assert fit_edge(np.append(np.linspace(1, 2, 30), -1e-15), 300).null_directions == 1


@pytest.mark.parametrize(
    "options,words",
    [
        ({"quantile": 1.5}, "quantile"),
        ({"quantile": float("nan")}, "quantile"),
        ({"delta": -0.1}, "delta"),
        ({"explained": 0.0}, "explained"),
        ({"margin_level": 1.0}, "margin_level"),
        ({"n_eff": 0.5}, "n_eff"),
        ({"n_eff": 1e9}, "n_eff"),
        ({"n_eff": float("nan")}, "n_eff"),
        ({"rule": "parallel"}, "sign-flipped"),
        ({"rule": "parallel", "null_eigenvalues": np.ones((3, 7))}, "shape"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        fit_edge(np.linspace(1, 2, 20), 100, **options)


def test_a_misspelt_rule_is_answered_with_the_nearest():
    with pytest.raises(UserError) as caught:
        fit_edge(np.ones(3), 10, rule="windw")
    assert '"window"' in caught.value.hint
