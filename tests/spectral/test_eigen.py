"""The eigensolver and varimax."""

import itertools

import numpy as np
import pytest
import torch

from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral import eigh_descending, varimax


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


def test_bad_matrices_are_refused():
    for matrix in (np.ones((2, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(DataError):
            eigh_descending(matrix)


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
