"""The scale and shift of a narrowed norm, fitted channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.spectral.moments import reduced


class NormFit:
    """Streaming fit of t_j = gamma_j n_j + beta_j, channel by channel (n: the plain norm's output, t: its target)."""

    def __init__(self, dim: int) -> None:
        self.sums = torch.zeros(6, dim, dtype=torch.float64)

    def add(self, normed: Tensor, target: Tensor, weights: Tensor | None = None) -> None:
        """Add rows (n, d) with weights (n,)."""
        n, t = normed.double(), target.double()
        w = (
            torch.ones(len(n), 1, dtype=torch.float64, device=n.device)
            if weights is None
            else weights[:, None].double()
        )
        parts = (w.expand_as(n), w * n, w * t, w * n * n, w * n * t, w * t * t)
        self.sums += torch.stack([part.sum(0) for part in parts]).cpu()

    def solve(self, *, shift: bool = True) -> tuple[Tensor, Tensor]:
        """Return gamma and beta (d,): cov(n, t) / var(n) and the matching shift (gamma 0 where n does not vary).

        Without a shift beta is 0 and gamma E[n t] / E[n^2].
        """
        _, (sums,) = reduced(0.0, [self.sums])
        total, n, t, nn, nt, _ = sums
        total = total.clamp_min(1e-300)
        if not shift:
            n, t = torch.zeros_like(n), torch.zeros_like(t)
        mean_n, mean_t = n / total, t / total
        variance = nn / total - mean_n**2
        gamma = torch.where(variance > 1e-10, (nt / total - mean_n * mean_t) / variance.clamp_min(1e-300), 0.0)
        return gamma, mean_t - gamma * mean_n
