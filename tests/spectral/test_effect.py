"""Weighting by effect, and the sign-flipped null."""

import numpy as np
import pytest
import torch

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral import (
    eigh_descending,
    fit_edge,
    null_spectra,
    sign_flipped,
    weighted_matrix,
    weighted_spectrum,
)


def moment(d: int, n: int, seed: int) -> torch.Tensor:
    x = torch.randn(d, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * torch.linspace(0.3, 3, d, dtype=torch.float64)[:, None]) @ x.T.mul(torch.linspace(0.3, 3, d)) / n


def test_blend_one_is_the_plain_spectrum():
    second = moment(12, 50, 0)
    values, rows = weighted_spectrum(second, moment(12, 3, 1), 1.0)
    plain_values, plain_rows = eigh_descending(second)
    torch.testing.assert_close(values, plain_values)
    torch.testing.assert_close(rows, plain_rows)
    torch.testing.assert_close(weighted_matrix(second, moment(12, 3, 1), 1.0), second)


def test_an_isotropic_gradient_is_the_plain_spectrum_too():
    second = moment(12, 50, 0)
    values, rows = weighted_spectrum(second, 7e-9 * torch.eye(12), 0.3)
    torch.testing.assert_close(values, eigh_descending(second)[0])
    torch.testing.assert_close(rows, eigh_descending(second)[1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("blend", [0.0, 0.1, 0.5])
def test_first_rows_span_the_weighted_directions(blend):
    second, gradient = moment(12, 50, 0), moment(12, 40, 1)
    values, rows = weighted_spectrum(second, gradient, blend)
    torch.testing.assert_close(rows @ rows.T, torch.eye(12, dtype=torch.float64), atol=1e-12, rtol=0)
    weights = 12 * ((1 - blend) * gradient / gradient.trace() + blend * torch.eye(12) / 12)
    w, v = torch.linalg.eigh(weights)
    root = v @ torch.diag(w.sqrt()) @ v.T
    torch.testing.assert_close(values, torch.linalg.eigvalsh(root @ second @ root).flip(0))
    torch.testing.assert_close(values, torch.linalg.eigvalsh(weighted_matrix(second, gradient, blend)).flip(0))
    directions = torch.linalg.eigh(root @ second @ root)[1].flip(1)
    for k in (1, 4, 9):
        raw = root @ directions[:, :k]
        torch.testing.assert_close(raw - rows[:k].T @ (rows[:k] @ raw), torch.zeros_like(raw), atol=1e-10, rtol=0)


def test_weighting_drops_what_has_no_effect():
    """The widest direction does not move the output: it must not be kept first."""
    second = torch.diag(torch.tensor([100.0, 5.0, 4.0, 1.0], dtype=torch.float64))
    gradient = torch.diag(torch.tensor([0.0, 1.0, 1.0, 0.2], dtype=torch.float64))
    _, rows = weighted_spectrum(second, gradient, 0.01)
    assert abs(float(rows[0, 1])) == pytest.approx(1.0)


def test_heads_are_weighted_one_by_one():
    second, gradient = (torch.stack([moment(6, 30, s), moment(6, 30, s + 1)]) for s in (0, 5))
    values, rows = weighted_spectrum(second, gradient, 0.4)
    torch.testing.assert_close(values[1], weighted_spectrum(second[1], gradient[1], 0.4)[0])
    torch.testing.assert_close(rows[1], weighted_spectrum(second[1], gradient[1], 0.4)[1], atol=1e-9, rtol=0)


def test_bad_gradients_are_refused():
    second = moment(4, 9, 0)
    for gradient in (torch.zeros(4, 4), torch.full((4, 4), torch.nan), torch.diag(torch.tensor([5.0, 1, 1, -1]))):
        with pytest.raises(DataError):
            weighted_spectrum(second, gradient, 0.5 if gradient.isnan().any() else 0.0)
    with pytest.raises(UserError, match="blend"):
        weighted_spectrum(second, second, 1.1)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_flips_keep_magnitudes_and_dependence_within_a_block():
    x, blocks = randn(60, 8), torch.arange(60) // 6
    flipped = sign_flipped(x, blocks, 3)
    assert torch.equal(flipped.abs(), x.abs())
    signs = (flipped / x).view(10, 6, 8)
    assert torch.equal(signs, signs[:, :1].expand_as(signs))
    assert 0.3 < float((signs[:, 0] > 0).double().mean()) < 0.7
    assert torch.equal(flipped, sign_flipped(x, blocks, 3))
    assert not torch.equal(flipped, sign_flipped(x, blocks, 4))
    with pytest.raises(DataError):
        sign_flipped(x, blocks[:-1], 0)


def parallel_rank(x: torch.Tensor, blocks: torch.Tensor, **more: torch.Tensor) -> int:
    values = eigh_descending(x.T @ x / len(x))[0].numpy()
    null = null_spectra(x, blocks, 10, 0, **more).numpy()
    return fit_edge(values, len(x), rule="parallel", null_eigenvalues=null).rank


def test_parallel_keeps_nothing_of_unequal_noise_that_depends_within_blocks():
    """Neither the law nor n_eff alone describes it: unequal variances, and rows that are alike within a block."""
    d, blocks = 60, torch.arange(1200) // 4
    x = (randn(1200, d) + 1.5 * randn(300, d, seed=1)[blocks]) * torch.logspace(-1, 0.5, d, dtype=torch.float64)
    values = np.linalg.eigvalsh((x.T @ x / 1200).numpy())
    assert parallel_rank(x, blocks) <= 1
    assert fit_edge(values, 1200, rule="bema").rank > 10


def test_parallel_finds_spikes_and_deflation_uncovers_the_weak_one():
    blocks = torch.arange(800)
    directions = torch.linalg.qr(randn(60, 3, seed=2))[0].T
    strengths = torch.tensor([40.0, 3.0, 1.6], dtype=torch.float64)
    x = randn(800, 60) + (randn(800, 3, seed=4) * strengths) @ directions
    assert parallel_rank(x, blocks) == 3
