"""The fixed projection of a site: completed bases."""

import torch

from rmtkd_edge.compress.ranks.projection import completed


def test_completed_rows_stay_orthonormal():
    rows = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64))[0].T
    full = completed(rows, 9)
    assert len(full) == 9 and torch.equal(full[:5], rows)
    torch.testing.assert_close(full @ full.T, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-10)
