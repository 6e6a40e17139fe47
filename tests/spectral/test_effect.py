"""Weighting by effect, in the spectrum and in the directions."""

import pytest
import torch

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral import eigh_descending, weighted_matrix, weighted_spectrum


def moment(d: int, n: int, seed: int) -> torch.Tensor:
    x = torch.randn(d, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x * torch.linspace(0.3, 3, d, dtype=torch.float64)[:, None]
    return x @ x.T / n


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
    weights = 12 * ((1 - blend) * gradient / gradient.trace() + blend * torch.eye(12, dtype=torch.float64) / 12)
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


def test_a_model_whose_outputs_never_move_is_told_apart_with_what_to_try():
    with pytest.raises(DataError, match="outputs do not depend on this site") as caught:
        weighted_spectrum(torch.eye(3), torch.zeros(3, 3), 0.5)
    assert "train.epochs" in caught.value.hint and "tokenizer" in caught.value.hint
