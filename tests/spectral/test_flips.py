"""The sign-flipped null: what it keeps, what it destroys, and the ranks found against it."""

import numpy as np
import pytest
import torch

from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral import eigh_descending, fit_edge, sign_flipped


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


def parallel_rank(x: torch.Tensor, blocks: torch.Tensor) -> int:
    values = eigh_descending(x.T @ x / len(x))[0].numpy()
    flipped = [sign_flipped(x, blocks, draw) for draw in range(10)]
    null = np.stack([eigh_descending(rows.T @ rows / len(rows))[0].numpy() for rows in flipped])
    return fit_edge(values, len(x), rule="parallel", null_eigenvalues=null).rank


def test_parallel_keeps_nothing_of_unequal_noise_that_depends_within_blocks():
    """Neither the law nor n_eff alone describes it: unequal variances, and rows that are alike within a block."""
    d, blocks = 60, torch.arange(1200) // 4
    x = (randn(1200, d) + 1.5 * randn(300, d, seed=1)[blocks]) * torch.logspace(-1, 0.5, d, dtype=torch.float64)
    values = np.linalg.eigvalsh((x.T @ x / 1200).numpy())
    assert parallel_rank(x, blocks) <= 1
    assert fit_edge(values, 1200, rule="bema").rank > 10


def test_parallel_finds_spikes():
    blocks = torch.arange(800)
    directions = torch.linalg.qr(randn(60, 3, seed=2))[0].T
    x = randn(800, 60) + (randn(800, 3, seed=4) * torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64)) @ directions
    assert parallel_rank(x, blocks) == 3


def test_signs_do_not_depend_on_the_batches_that_rows_come_in():
    x, blocks = torch.randn(40, 6), torch.arange(40) + 100
    parts = [sign_flipped(x[i : i + 7], blocks[i : i + 7], 5) for i in range(0, 40, 7)]
    assert torch.equal(torch.cat(parts), sign_flipped(x, blocks, 5))
