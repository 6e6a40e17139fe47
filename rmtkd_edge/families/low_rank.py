"""The best low-rank form of the attention scores of every head."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rmtkd_edge.spectral.moments import reduced

Linear = tuple[Tensor, Tensor]  # weight (out, in) and bias (out,), float64


def best_query_key(
    query: Linear, key: Linear, states: Iterable[Tensor], heads: int, rank: int
) -> tuple[Linear, Linear]:
    """Return the query and key maps of `rank` per head with the closest scores: q^T k = (L_q q)^T (L_k k).

    With Q^T Q and K^T K the moments of a head's queries and (centred, since softmax is blind to what all keys share)
    keys, the singular value decomposition of Q K^T in whitened coordinates is the optimum (Eckart and Young 1936).

    Args:
        states: the inputs of both maps, rows (n, in).
    """
    (wq, bq), (wk, bk) = query, key
    size = wq.shape[1]
    second = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    for rows in states:
        x = rows.double().cpu()
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        second += x.T @ x
    _, (second,) = reduced(0.0, [second])
    second = second / second[-1, -1].clone()
    mean = second[-1, :-1]
    covariance = second[:-1, :-1] - torch.outer(mean, mean)
    augmented = torch.cat([wq, bq[:, None]], 1)
    left, right = [], []
    for q, k in zip(augmented.chunk(heads), wk.chunk(heads), strict=True):
        root_q, inverse_q = _root(q @ second @ q.T)
        root_k, inverse_k = _root(k @ covariance @ k.T)
        u, s, vt = torch.linalg.svd(root_q @ root_k)
        scale = s[:rank].sqrt()[:, None]
        left.append(scale * (u.T[:rank] @ inverse_q))
        right.append(scale * (vt[:rank] @ inverse_k))
    lq, lk = torch.block_diag(*left), torch.block_diag(*right)
    return (lq @ wq, lq @ bq), (lk @ wk, lk @ bk)


def _root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a moment and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0).sqrt()
    inverse = torch.where(values > values.max() * 1e-6, 1 / values.clamp_min(1e-300), 0.0)
    return (vectors * values) @ vectors.T, (vectors * inverse) @ vectors.T
