"""What an analysis leaves of a site: its spectrum, the directions in their order, and what selection needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.families.base import Site
from rmtkd_edge.spectral import EdgeFit, Moments, effective_sample_size, fit_edge
from rmtkd_edge.spectral.moments import reduced

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
        return [
            fit_edge(
                values,
                self.n,
                rule=options.rule,
                quantile=quantile,
                delta=options.delta,
                n_eff=self.n_eff if options.effective_samples else None,
                margin_level=options.margin,
                explained=max(1.0 - quantile, SMALLEST_SHARE),
                null_eigenvalues=None if self.null_eigenvalues is None else self.null_eigenvalues[:, head],
            )
            for head, values in enumerate(self.eigenvalues)
        ]


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
