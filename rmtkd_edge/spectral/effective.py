"""How many independent samples correlated rows are worth: n_eff = n (tr B / n)^2 / (tr B^2 / n).

B is the (n, n) correlation between samples: rows x_i with E x_i x_j^T = B_ij Sigma. The plain Gram K = X X^T
estimates B with a bias that never goes away: for i != j, E K_ij^2 = T^2 B_ij^2 + T2 (B_ii B_jj + B_ij^2), T = tr
Sigma, T2 = tr Sigma^2. For white independent rows the second term alone gives tr B^2 / n = 1 + n / d, hence "n_eff =
d" whatever n is. So the floor r = T2 / T^2 (1 / d for white features, more for real ones) is measured on pairs that
are independent by construction and taken off the pairs that may depend on each other:

- with `block_ids` (sentences, images): same block may depend, other blocks do not; in any order;
- without: rows in their stored order; rows up to 64 apart may depend, farther ones do not. Shuffled dependent rows,
  or blocks much longer than that, go unseen: pass `block_ids`.

Rows of unequal norm (heavy tails) also lower n_eff, as the definition says: they are the diagonal of B.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError

MAX_LAG = 64
WINDOW = 512  # rows of one stretch of the stored order


def effective_sample_size(x: Tensor, *, block_ids: Tensor | None = None, cap: int = 2048, seed: int = 0) -> float:
    """Return n_eff of the rows `x` (n, d), in [1, n], estimated on about `cap` rows; `block_ids` (n,) integers.

    Rows are centred first: dependence is about fluctuations, a common mean is not dependence.
    Raises DataError for fewer than 2 rows, rows that are all equal, NaN, or ids of another length.
    """
    if x.ndim != 2 or len(x) < 2:
        raise DataError(f"An effective sample size needs at least 2 rows, got shape {tuple(x.shape)}.")
    if block_ids is not None and block_ids.shape != (len(x),):
        raise DataError(f"block_ids must be of shape ({len(x)},), it is {tuple(block_ids.shape)}.")
    generator = torch.Generator().manual_seed(seed)
    if block_ids is None:
        rows, group, stands_for, pairs = _stretches(len(x), cap, generator)
    else:
        rows, group, stands_for, pairs = _blocks(block_ids.cpu(), cap, generator)
    sample = x.detach()[rows.to(x.device)].cpu().to(torch.float64)
    if not bool(torch.isfinite(sample).all()):
        raise DataError("Rows given to effective_sample_size hold NaN or infinity.")
    sample = sample - sample.mean(0)
    gram = sample @ sample.T
    if float(gram.diagonal().mean()) <= 0:
        raise DataError("All rows are equal: they have no effective sample size.", "check the activations at this site")
    near, far = group[:, None] == group[None, :], group[:, None] != group[None, :]
    if block_ids is None:
        near = (rows[:, None] - rows[None, :]).abs() <= MAX_LAG
        far = ~near
    floor = _floor(gram, far, x.shape[1])
    return float(min(max(len(x) / _second_moment(gram, near, floor, stands_for, pairs), 1.0), len(x)))


def _floor(gram: Tensor, far: Tensor, d: int) -> float:
    """Return r = tr Sigma^2 / (tr Sigma)^2 from pairs that are independent; 1 / d where the rows hold no such pair."""
    if not bool(far.any()):
        return 1.0 / d
    norms = gram.diagonal()
    expected = float((norms[:, None] * norms[None, :])[far].sum())
    return min(float((gram[far] ** 2).sum()) / expected, 1.0) if expected > 0 else 1.0 / d


def _second_moment(gram: Tensor, near: Tensor, floor: float, stands_for: Tensor, pairs: Tensor) -> float:
    """Return (tr B^2 / n) / (tr B / n)^2, at least 1e-300: each row represents some, each of its pairs `pairs`."""
    total = stands_for.sum()
    norms = gram.diagonal() / ((gram.diagonal() * stands_for).sum() / total)
    scale = gram.diagonal().mean() / norms.mean()
    # By Cauchy and Schwarz the diagonal's share is at least 1; non-Gaussian rows may seem to have less.
    diagonal = max(float((norms**2 * stands_for).sum() / total) / (1 + 2 * floor), 1.0)
    near = near & ~torch.eye(len(gram), dtype=torch.bool)
    excess = torch.where(near, (gram / scale) ** 2 - floor * norms[:, None] * norms[None, :], 0.0).sum(1) / (1 + floor)
    return max(diagonal + float((excess * stands_for * pairs).sum() / total), 1e-300)


Sample = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # row numbers, group numbers, rows that a row represents, pairs that a pair represents


def _stretches(n: int, cap: int, generator: torch.Generator) -> Sample:
    """Return all rows, or about cap / WINDOW disjoint runs of WINDOW rows of the stored order."""
    if n <= max(cap, 2 * WINDOW):
        rows = torch.arange(n)
    else:
        picked = torch.randperm(n // WINDOW, generator=generator)[: max(2, cap // WINDOW)].sort().values
        rows = (picked[:, None] * WINDOW + torch.arange(WINDOW)).flatten()
    one = torch.ones(len(rows), dtype=torch.float64)
    return rows, torch.div(rows, WINDOW, rounding_mode="floor"), one, one


def _blocks(block_ids: Tensor, cap: int, generator: torch.Generator) -> Sample:
    """Return randomly picked blocks, at least 2, until about `cap` rows, and of a large block a random part."""
    _, ids, sizes = torch.unique(block_ids, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError(
            "All rows belong to one block: nothing to compare their dependence with.", "give 2 or more blocks"
        )
    most = max(cap // 8, 2)
    order = torch.randperm(len(sizes), generator=generator)
    enough = int(torch.searchsorted(sizes[order].clamp_max(most).cumsum(0), cap)) + 1
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    chosen[order[: max(2, enough)]] = True
    # Rows shuffled, then sorted by block: a row's place within its block is random, keep the first `most`.
    rows = torch.randperm(len(ids), generator=generator)
    rows = rows[torch.argsort(ids[rows], stable=True)]
    place = torch.arange(len(ids)) - (sizes.cumsum(0) - sizes)[ids[rows]]
    rows = rows[chosen[ids[rows]] & (place < most)]
    group = ids[rows]
    size, kept = sizes[group].double(), sizes[group].clamp_max(most).double()
    return rows, group, size / kept, (size - 1) / (kept - 1).clamp_min(1)
