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
    if spectrum.pivots is not None:
        kept = sorted(spectrum.pivots.first(rank))
        return torch.zeros(len(kept), spectrum.site.width, dtype=torch.float64).index_put_(
            (torch.arange(len(kept)), torch.tensor(kept)), torch.tensor(1.0, dtype=torch.float64)
        )
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
