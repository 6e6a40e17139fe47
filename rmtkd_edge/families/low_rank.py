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
    second = second_moment(states, query[0].shape[1])
    left, right = best_factors(
        output_moments(query, second, heads), output_moments(key, second, heads, centred=True), rank
    )
    return factored(left, query), factored(right, key)


def second_moment(states: Iterable[Tensor], width: int) -> Tensor:
    """Return E[(x, 1) (x, 1)^T], (width + 1, width + 1), of the rows x (n, width) of all processes."""
    second = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    for rows in states:
        x = rows.double().cpu()
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        second += x.T @ x
    _, (second,) = reduced(0.0, [second])
    return second / second[-1, -1].clone()


def output_moments(linear: Linear, second: Tensor, heads: int, *, centred: bool = False) -> Tensor:
    """Return the second moments (heads, r, r) of a map's outputs, head by head, for `second_moment` of its inputs."""
    weight, bias = linear
    augmented = torch.cat([weight, bias[:, None]], 1)
    if centred:
        mean = second[-1]
        second = second - torch.outer(mean, mean)
    found = torch.stack([part @ second @ part.T for part in augmented.chunk(heads)])
    return (found + found.mT) / 2


def best_factors(queries: Tensor, keys: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return L_q and L_k (heads * rank, heads * r), block-diagonal, with q^T k close to (L_q q)^T (L_k k).

    Args:
        queries, keys: second moments (heads, r, r) of what meets each other, all kinds of it added up.
    """
    left, right = [], []
    for q, k in zip(queries, keys, strict=True):
        root_q, inverse_q = _root(q)
        root_k, inverse_k = _root(k)
        u, s, vt = torch.linalg.svd(root_q @ root_k)
        scale = s[:rank].sqrt()[:, None]
        left.append(scale * (u.T[:rank] @ inverse_q))
        right.append(scale * (vt[:rank] @ inverse_k))
    return torch.block_diag(*left), torch.block_diag(*right)


def factored(factor: Tensor, linear: Linear) -> Linear:
    """Return a map followed by a factor."""
    return factor @ linear[0], factor @ linear[1]


def _root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a moment and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0).sqrt()
    inverse = torch.where(values > values.max() * 1e-6, 1 / values.clamp_min(1e-300), 0.0)
    return (vectors * values) @ vectors.T, (vectors * inverse) @ vectors.T
