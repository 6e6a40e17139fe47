"""The fixed projection of a site: which k directions are kept, and which basis of them."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.families.spectrum import SiteSpectrum
from rmtkd_edge.spectral import varimax


def projection(spectrum: SiteSpectrum, rank: int, options: Compress) -> Tensor:
    """Return P for a site, float64: (k, d), or block-diagonal (heads k, heads d) for sites with heads.

    The rows are orthonormal. Before a nonlinearity or norm the basis is turned towards the axes (varimax) and every row
    is signed to a positive sum, since an elementwise function is only blind to permutations; a site with none in
    between keeps its eigenvectors.
    """
    if spectrum.activated is not None:
        return selection(spectrum.activated, spectrum.weights, rank)
    blocks = []
    for directions in spectrum.directions:
        rows = completed(directions, rank)[:rank]
        if options.basis == "varimax" and spectrum.site.basis == "axes":
            rows = varimax(rows)
            rows = rows * torch.where(rows.sum(1, keepdim=True) < 0, -1.0, 1.0)
        blocks.append(rows)
    return torch.block_diag(*blocks)


def completed(rows: Tensor, rank: int) -> Tensor:
    """Return at least `rank` orthonormal rows: those given, then arbitrary ones (where a recipe asks for more)."""
    if len(rows) >= rank:
        return rows
    generator = torch.Generator().manual_seed(rank)
    more = torch.randn(rank - len(rows), rows.shape[1], generator=generator, dtype=rows.dtype)
    more = more - (more @ rows.T) @ rows
    return torch.cat([rows, torch.linalg.qr(more.T)[0].T])


def selection(second: Tensor, weights: Tensor | None, rank: int) -> Tensor:
    """Return rows of the identity for `rank` channels chosen by pivoted Cholesky of the (effect-scaled) moment (d, d).

    Pivoted Cholesky of X X^T takes the columns that pivoted QR of X^T takes (Higham 1990).
    """
    matrix = second.clone()
    if weights is not None:
        scale = weights.clamp_min(0).sqrt()
        scale = scale / scale.mean() + 0.1
        matrix = matrix * scale[:, None] * scale[None, :]
    left = matrix.diagonal().clone()
    smallest = 1e-12 * float(left.max())
    factors = torch.zeros(len(matrix), rank, dtype=matrix.dtype)
    chosen: list[int] = []
    for step in range(rank):
        pivot = int(left.argmax())
        if not float(left[pivot]) > smallest:  # the moment's rank is used up: any other channel repeats chosen ones
            rest = matrix.diagonal().clone()
            rest[chosen] = -torch.inf
            chosen += rest.argsort(descending=True, stable=True)[: rank - step].tolist()
            break
        column = (matrix[:, pivot] - factors[:, :step] @ factors[pivot, :step]) / left[pivot].sqrt()
        factors[:, step] = column
        left = left - column**2
        chosen.append(pivot)
        left[chosen] = -torch.inf
    return torch.eye(len(matrix), dtype=matrix.dtype)[sorted(chosen)]
