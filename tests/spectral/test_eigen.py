"""Eigensolvers against each other, and varimax."""

import itertools

import numpy as np
import pytest
import torch

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral import approximate_spectrum, bulk_density, eigh_descending, fit_edge, top_k, varimax


def moment(d: int = 200, n: int = 800, spikes: tuple[float, ...] = (50.0, 20.0, 9.0)) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((d, n))
    x[: len(spikes)] *= np.sqrt(np.array(spikes))[:, None]
    x = np.linalg.qr(rng.standard_normal((d, d)))[0] @ x
    return x @ x.T / n


def orthonormal(k: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64))[0].T.contiguous()


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_eigh_descending_rebuilds_the_matrix(convert):
    matrix = convert(moment(40, 100))
    values, rows = eigh_descending(matrix)
    assert type(values) is type(matrix)
    assert bool((values[:-1] >= values[1:]).all())
    values, rows = np.asarray(values), np.asarray(rows)
    np.testing.assert_allclose(rows.T @ (values[:, None] * rows), np.asarray(matrix), atol=1e-12)
    assert (rows[np.arange(40), np.abs(rows).argmax(1)] > 0).all()


def test_eigh_descending_takes_batches():
    batch = torch.stack([torch.from_numpy(moment(20, 50)), torch.eye(20, dtype=torch.float64)])
    values, rows = eigh_descending(batch)
    torch.testing.assert_close(rows[0], eigh_descending(batch[0])[1], atol=1e-9, rtol=0)
    torch.testing.assert_close(values[1], torch.ones(20, dtype=torch.float64))


def test_signs_do_not_depend_on_the_solver():
    matrix = moment(60, 100)
    values, rows = eigh_descending(matrix)
    for seed in (0, 1):
        top, directions = top_k(matrix, 5, seed)
        np.testing.assert_allclose(top, values[:5], rtol=1e-9)
        np.testing.assert_allclose(directions, rows[:5], atol=1e-6)
    np.testing.assert_allclose(top_k(torch.from_numpy(matrix), 60)[0], values)


def test_slq_agrees_with_the_full_spectrum():
    matrix = moment()
    values, rows = eigh_descending(matrix)
    nodes, weights = bulk_density(matrix, deflate=rows[:3])
    bulk = values[3:]
    assert weights.sum() == pytest.approx(1.0)
    assert nodes.min() >= bulk.min() - 1e-9 and nodes.max() <= bulk.max() + 1e-9
    for power in (1, 2, 3):
        assert (weights * nodes**power).sum() == pytest.approx((bulk**power).mean(), rel=0.05)
    for x in np.quantile(bulk, [0.2, 0.5, 0.8]):
        assert weights[nodes <= x].sum() == pytest.approx((bulk <= x).mean(), abs=0.04)


def test_slq_is_exact_on_an_invariant_subspace():
    matrix = np.diag([2.0] * 10 + [5.0] * 10)
    nodes, weights = bulk_density(matrix)
    assert set(np.round(nodes, 9)) == {2.0, 5.0}
    assert weights[nodes > 3].sum() == pytest.approx(0.5)
    assert bulk_density(np.eye(4))[0] == pytest.approx(np.ones(16))


def test_the_edge_of_an_approximate_spectrum_is_that_of_the_full_one():
    matrix = moment()
    full, approximate = eigh_descending(matrix)[0], approximate_spectrum(matrix, 10)
    assert (np.diff(approximate) <= 1e-12).all()
    np.testing.assert_allclose(approximate[:10], full[:10], rtol=1e-9)
    for rule in ("window", "bema"):
        a, b = fit_edge(approximate, 800, rule=rule), fit_edge(full, 800, rule=rule)
        assert a.sigma2 == pytest.approx(b.sigma2, rel=0.03)
        assert a.rank == pytest.approx(b.rank, abs=1)


def test_bad_matrices_are_refused():
    for matrix in (np.ones((2, 3)), np.full((2, 2), np.nan)):
        for call in (eigh_descending, bulk_density, lambda m: top_k(m, 1)):
            with pytest.raises(DataError):
                call(matrix)
    with pytest.raises(UserError):
        top_k(np.eye(3), 4)


@pytest.mark.parametrize("k,d", [(1, 5), (6, 6), (20, 90)])
def test_varimax_keeps_the_span_and_never_lowers_the_criterion(k, d):
    rows = orthonormal(k, d)
    turned = varimax(rows)
    torch.testing.assert_close(turned @ turned.T, torch.eye(k, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(turned.T @ turned, rows.T @ rows, atol=1e-12, rtol=0)
    scores = [float((varimax(rows, iterations=i) ** 4).sum()) for i in (0, 1, 2, 5, 20, 60)]
    assert all(b >= a * (1 - 1e-5) for a, b in itertools.pairwise(scores))
    assert torch.equal(turned, varimax(rows))


def test_varimax_finds_the_axes():
    mixed = orthonormal(8, 8, 1) @ torch.eye(40, dtype=torch.float64)[3:11]
    turned = varimax(mixed, iterations=300, tol=1e-7)
    assert float((turned**4).sum()) == pytest.approx(8.0, rel=1e-3)


def test_varimax_refuses_rows_that_are_not_orthonormal():
    for rows in (torch.ones(2, 4), orthonormal(4, 4)[:, :2], torch.full((2, 4), torch.nan)):
        with pytest.raises(DataError):
            varimax(rows)
