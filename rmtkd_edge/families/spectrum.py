"""What an analysis leaves of a site: its spectrum, the directions in their order, and what selection needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.families.base import Site
from rmtkd_edge.spectral import EdgeFit, Moments, effective_sample_size
from rmtkd_edge.spectral.bulk import Bulk, make_bulk
from rmtkd_edge.spectral.edge import fit_bulk
from rmtkd_edge.spectral.moments import reduced
from rmtkd_edge.spectral.pivots import PivotOrder
from rmtkd_edge.spectral.rules.base import Options

SMALLEST_SHARE = 1e-6  # of variance, for `explained-variance`
NULL_REPEATS = 5  # sign-flipped replicates of the rule `parallel`
SampleRows = list[tuple[Tensor, Tensor]]  # rows of a sample (n, d) and the number of each row's block (n,)


@dataclass(frozen=True)
class SiteSpectrum:
    """Eigenvalues of a site, descending, (heads, d), and orthonormal rows (heads, up to d, d) in their order, float64.

    Attributes:
        n_eff: effective number of independent samples, None where it was not estimated.
        null_eigenvalues: (replicates, heads, d) of sign-flipped samples, for the rule `parallel`.
        activated: the moment (d, d) after the nonlinearity, where channels are to be selected.
        weights: the gradient's second moment (d,) channel by channel, where channels are to be selected.
    """

    site: Site
    eigenvalues: np.ndarray
    n: int
    n_eff: float | None
    directions: Tensor
    null_eigenvalues: np.ndarray | None
    activated: Tensor | None
    weights: Tensor | None

    def fit(self, options: Analyse, quantile: float) -> list[EdgeFit]:
        """Return one edge fit a head at the given quantile (`explained-variance`: the share left out)."""
        explained, null = max(1.0 - quantile, SMALLEST_SHARE), self.null_eigenvalues
        bulks = self._effective_bulks if options.effective_samples else self._bulks
        return [
            fit_bulk(
                bulk,
                options.rule,
                Options(quantile, options.delta, options.margin, explained, None if null is None else null[:, head]),
            )
            for head, bulk in enumerate(bulks)
        ]

    @cached_property
    def pivots(self) -> PivotOrder | None:
        """The order in which channels are selected, None where directions are projected on."""
        return None if self.activated is None else PivotOrder(self.activated, self.weights)

    @cached_property
    def _bulks(self) -> list[Bulk]:
        return [make_bulk(values, self.n) for values in self.eigenvalues]

    @cached_property
    def _effective_bulks(self) -> list[Bulk]:
        return [make_bulk(values, self.n, self.n_eff) for values in self.eigenvalues]


def independent_share(rows: SampleRows, seed: int) -> float:
    """Return n_eff / n, the mean over the processes, each of which looks at its own rows."""
    share, count = torch.zeros(1, dtype=torch.float64), 0.0
    if rows:
        sample, ids = torch.cat([x for x, _ in rows]), torch.cat([block for _, block in rows])
        repeated = len(torch.unique(ids)) < len(ids)
        n_eff = effective_sample_size(sample, block_ids=ids if repeated else None, seed=seed)
        share, count = torch.tensor([n_eff], dtype=torch.float64), float(len(sample))
    count, (share,) = reduced(count, [share])
    return float(share) / max(count, 1.0)


def eigenvalues_of(matrices: Tensor) -> np.ndarray:
    """Return the eigenvalues (heads, d) of symmetric matrices (heads, d, d), descending and at least 0."""
    return torch.linalg.eigvalsh(matrices).flip(-1).clamp_min(0.0).cpu().numpy()


def as_blocks(moments: Moments, centred: bool) -> Tensor:
    """Return a second moment, or the covariance, as (heads, d, d)."""
    matrix = moments.covariance() if centred else moments.second()
    return matrix if matrix.ndim == 3 else matrix[None]
