"""n_eff on rows whose worth is known."""

import pytest
import torch

from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral import effective_sample_size


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ar1(n: int, d: int, rho: float) -> torch.Tensor:
    x, out = randn(n, d), []
    state = x[0]
    for row in x:
        state = rho * state + (1 - rho**2) ** 0.5 * row
        out.append(state)
    return torch.stack(out)


@pytest.mark.parametrize("n,d", [(500, 30), (1500, 200), (9000, 50)])
def test_independent_rows_are_worth_one_each(n, d):
    """The plain formula would say about n d / (n + d)."""
    assert effective_sample_size(randn(n, d)) > 0.85 * n


def test_unequal_features_and_a_common_mean_are_not_dependence():
    x = randn(3000, 64) * torch.arange(1, 65) ** -1.0 + 3.0
    assert effective_sample_size(x) > 0.8 * 3000
    assert effective_sample_size(x, block_ids=torch.arange(3000) // 10) > 0.8 * 3000


@pytest.mark.parametrize("n", [1800, 8192])
def test_ar1_rows(n):
    rho = 0.9
    assert effective_sample_size(ar1(n, 128, rho)) == pytest.approx(n * (1 - rho**2) / (1 + rho**2), rel=0.15)


@pytest.mark.parametrize("n", [1600, 6400])
def test_repeated_rows_are_worth_their_blocks(n):
    blocks = torch.arange(n) // 16
    x = randn(n // 16, 100)[blocks]
    assert effective_sample_size(x) == pytest.approx(n / 16, rel=0.15)
    assert effective_sample_size(x, block_ids=blocks) == pytest.approx(n / 16, rel=0.1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    assert effective_sample_size(x[order], block_ids=blocks[order]) == pytest.approx(n / 16, rel=0.1)


def test_blocks_larger_than_the_cap_are_sampled_in_part():
    blocks = torch.arange(12_000) // 1500
    x = randn(8, 100)[blocks]
    assert effective_sample_size(x, block_ids=blocks) == pytest.approx(8, rel=0.25)


def test_heavy_tailed_rows_are_worth_less():
    scale = torch.ones(1000, 1, dtype=torch.float64)
    scale[::10] = 10.0
    weights = scale.flatten() ** 2
    expected = float(weights.sum() ** 2 / (weights**2).sum())
    assert effective_sample_size(randn(1000, 100) * scale) == pytest.approx(expected, rel=0.2)


def test_same_seed_same_answer_and_never_above_n():
    x = randn(5000, 20)
    assert effective_sample_size(x, seed=3) == effective_sample_size(x, seed=3)
    for seed in range(5):
        assert 1 <= effective_sample_size(randn(40, 5, seed=seed)) <= 40


def test_degenerate_rows_are_refused():
    with pytest.raises(DataError, match="2 rows"):
        effective_sample_size(torch.zeros(1, 4))
    with pytest.raises(DataError, match="equal"):
        effective_sample_size(torch.ones(10, 4))
    with pytest.raises(DataError, match="NaN"):
        effective_sample_size(torch.full((10, 4), torch.nan))
    with pytest.raises(DataError, match="one block"):
        effective_sample_size(randn(10, 4), block_ids=torch.zeros(10, dtype=torch.int64))
    with pytest.raises(DataError, match="block_ids"):
        effective_sample_size(randn(10, 4), block_ids=torch.zeros(9, dtype=torch.int64))
