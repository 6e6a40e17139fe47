"""The fixed projection of a site: selected channels, completed bases."""

import torch

from rmtkd_edge.compress.ranks.projection import completed, selection


def test_selected_channels_carry_what_the_rest_repeats():
    torch.manual_seed(0)
    few = torch.randn(500, 4, dtype=torch.float64)
    x = torch.cat([few, few @ torch.randn(4, 6, dtype=torch.float64) * 0.1], 1)
    rows = selection(x.T @ x / len(x), None, 4)
    kept = x @ rows.T
    rest = torch.linalg.lstsq(kept, x).solution
    assert float((kept @ rest - x).abs().max()) < 1e-8


def test_completed_rows_stay_orthonormal():
    rows = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64))[0].T
    full = completed(rows, 9)
    assert len(full) == 9 and torch.equal(full[:5], rows)
    torch.testing.assert_close(full @ full.T, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-10)


def test_more_channels_than_the_moment_has_directions_are_all_different():
    rows = torch.randn(20, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = selection(rows.T @ rows / 20, None, 35)
    torch.testing.assert_close(chosen @ chosen.T, torch.eye(35, dtype=torch.float64), rtol=0, atol=0)
