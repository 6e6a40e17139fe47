"""The small fits of a closed form, in float32, against numpy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmtkd_edge.families.low_rank import second_moment
from rmtkd_edge.families.norm_fit import NormFit


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_norm_is_fitted_as_by_numpy_whatever_its_mean(mean: float, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    n = (mean + rng.normal(size=(3000, 4))).astype(np.float32)
    t = (0.5 * n - mean + 0.1 * rng.normal(size=n.shape)).astype(np.float32)
    w = rng.uniform(0.1, 2, 3000).astype(np.float32) if weighted else None
    fit, through_zero = NormFit(4), NormFit(4)
    for part in np.array_split(np.arange(3000), 7):
        for each in (fit, through_zero):
            weights = None if w is None else torch.from_numpy(w[part])
            each.add(torch.from_numpy(n[part]), torch.from_numpy(t[part]), weights)
    (gamma, beta), (alone, none) = fit.solve(), through_zero.solve(shift=False)
    for j in range(4):
        x, y = n[:, j].astype(np.float64), t[:, j].astype(np.float64)
        slope, shift = np.polyfit(x, y, 1, w=None if w is None else np.sqrt(w.astype(np.float64)))
        assert float(gamma[j]) == pytest.approx(slope, rel=1e-4)
        assert float(beta[j]) == pytest.approx(shift, rel=1e-4, abs=1e-4)
        by = np.ones(3000) if w is None else w.astype(np.float64)
        assert float(alone[j]) == pytest.approx((by * x * y).sum() / (by * x * x).sum(), rel=1e-5)
    assert not none.any()


def test_a_norm_whose_input_does_not_vary_gets_the_mean_alone() -> None:
    fit = NormFit(2)
    fit.add(torch.full((50, 2), 7.0), torch.tensor([3.0, -1.0]).expand(50, 2))
    gamma, beta = fit.solve()
    assert not gamma.any()
    torch.testing.assert_close(beta, torch.tensor([3.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_moments_about_zero_of_rows_far_from_it(dtype: torch.dtype) -> None:
    rows = (20 + torch.randn(3000, 12, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = second_moment(rows.split(700), 12)
    x = torch.cat([rows.double(), torch.ones(3000, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(found, x.T @ x / 3000, rtol=1e-6, atol=1e-6)
    covariance = found - torch.outer(found[-1], found[-1])
    torch.testing.assert_close(covariance[:-1, :-1], torch.cov(rows.double().T, correction=0), rtol=1e-4, atol=1e-5)
