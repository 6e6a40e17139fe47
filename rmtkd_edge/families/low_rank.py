"""The best low-rank form of the attention scores of every head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rmtkd_edge.spectral.cross import LEAST_RIDGE, CrossMoments

SWEEPS = 10
SMALL = 1e-9  # of the mean of a moment's diagonal
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
    moments = output_moments(query, second, heads), output_moments(key, second, heads, centred=True)
    left, right = best_factors([moments], rank)
    return factored(left, query), factored(right, key)


def second_moment(states: Iterable[Tensor], width: int) -> Tensor:
    """Return E[(x, 1) (x, 1)^T], (width + 1, width + 1), float64, of the rows x (n, width) of all processes.

    Rows of float32 are multiplied in float32, see `CrossMoments`.
    """
    moments = CrossMoments(width, 0, name="states", ridge=LEAST_RIDGE)
    for rows in states:
        moments.add(rows, rows[:, :0])
    moments.all_reduce()
    mean = torch.cat([moments.mean_inputs().cpu(), torch.ones(1, dtype=torch.float64)])
    second = torch.outer(mean, mean)
    second[:-1, :-1] += moments.covariance().cpu()
    return second


def output_moments(linear: Linear, second: Tensor, heads: int, *, centred: bool = False) -> Tensor:
    """Return the second moments (heads, r, r) of a map's outputs, head by head, for `second_moment` of its inputs."""
    weight, bias = linear
    augmented = torch.cat([weight, bias[:, None]], 1)
    if centred:
        mean = second[-1]
        second = second - torch.outer(mean, mean)
    found = torch.stack([part @ second @ part.T for part in augmented.chunk(heads)])
    return (found + found.mT) / 2


def best_factors(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor]:
    """Return L_q and L_k (heads * rank, heads * r), block-diagonal, with q^T k close to (L_q q)^T (L_k k).

    Args:
        pairs: second moments (heads, r, r) of queries and of the keys that they meet. Of one kind of pairs the optimum
            is found. Of two, starting at that of both as one, each factor in turn is the best for the other one: no
            step is for the worse.
    """
    queries, keys = (torch.stack(side).sum(0) for side in zip(*pairs, strict=True))
    left, right = _svd_factors(queries, keys, rank)
    if len(pairs) > 1:
        for _ in range(SWEEPS):
            left = _best_for(right, pairs)
            right = _best_for(left, [(keys, queries) for queries, keys in pairs])
        left, right = _svd_factors(queries, keys, rank, left.mT @ right)  # of one size
    return torch.block_diag(*left), torch.block_diag(*right)


def _svd_factors(queries: Tensor, keys: Tensor, rank: int, product: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the factors (heads, rank, r) whose product is closest to another one, the identity by default."""
    left, right = [], []
    for head, (q, k) in enumerate(zip(queries, keys, strict=True)):
        root_q, inverse_q = _root(q)
        root_k, inverse_k = _root(k)
        u, s, vt = torch.linalg.svd(root_q @ root_k if product is None else root_q @ product[head] @ root_k)
        scale = s[:rank].sqrt()[:, None]
        left.append(scale * (u.T[:rank] @ inverse_q))
        right.append(scale * (vt[:rank] @ inverse_k))
    return torch.stack(left), torch.stack(right)


def _best_for(right: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the left factors L (heads, rank, r) that are best for right ones R and two kinds of pairs (A, B).

    They solve A1 L^T C1 + A2 L^T C2 = (A1 B1 + A2 B2) R^T with C = R B R^T. In coordinates in which C1 + C2 is the
    identity and C2 diagonal, each row of L has an equation of its own. Directions that R has not, as where a rank is
    beyond that of the moments, get none.
    """
    (a1, b1), (a2, b2) = ((_positive(a), _positive(b)) for a, b in pairs)
    first, second = (right @ b @ right.mT for b in (b1, b2))
    scales, basis = torch.linalg.eigh((first + first.mT + second + second.mT) / 2)
    there = scales > SMALL * scales[..., -1:]
    whiten = basis * torch.where(there, scales.clamp_min(1e-300).rsqrt(), 0.0)[..., None, :]
    values, vectors = torch.linalg.eigh(whiten.mT @ ((second + second.mT) / 2) @ whiten)
    axes, share = whiten @ vectors, values.clamp(0, 1)[..., None, None]
    target = (a1 @ b1 + a2 @ b2) @ right.mT @ axes
    rows = torch.linalg.solve((1 - share) * a1[:, None] + share * a2[:, None], target.mT)
    return axes @ rows


def _positive(moment: Tensor) -> Tensor:
    """Return moments (heads, r, r) to which so little is added that they have an inverse."""
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
    return moment + SMALL * mean[:, None, None] * torch.eye(moment.shape[-1]).to(moment)


def factored(factor: Tensor, linear: Linear) -> Linear:
    """Return a map followed by a factor."""
    return factor @ linear[0], factor @ linear[1]


def _root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a moment and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0).sqrt()
    inverse = torch.where(values > values.max() * 1e-6, 1 / values.clamp_min(1e-300), 0.0)
    return (vectors * values) @ vectors.T, (vectors * inverse) @ vectors.T
