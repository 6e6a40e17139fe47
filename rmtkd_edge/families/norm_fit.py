"""The scale and shift of a narrowed norm, fitted channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.spectral.moments import reduced


class NormFit:
    """Streaming fit of t_j = gamma_j n_j + beta_j, channel by channel (n: the plain norm's output, t: its target)."""

    def __init__(self, dim: int) -> None:
        self._origin = torch.zeros(2, dim)  # what the sums are about, so that they can be taken in float32
        self._total = torch.zeros(1, dtype=torch.float64)
        self._sums = torch.zeros(4, dim, dtype=torch.float64)  # of n, t, n * n, n * t

    def add(self, normed: Tensor, target: Tensor, weights: Tensor | None = None) -> None:
        """Add rows (n, d) with weights (n,)."""
        if not len(normed):
            return
        if not self._total:
            self._origin = torch.stack([normed.mean(0), target.to(normed).mean(0)])
        n, t = normed - self._origin[0], target.to(normed) - self._origin[1]
        w = n.new_ones(len(n)) if weights is None else weights.to(n)
        wn = n * w[:, None]
        self._sums += torch.stack([wn.sum(0), w @ t, (wn * n).sum(0), wn.mul_(t).sum(0)]).cpu()
        self._total += w.cpu().double().sum()

    def solve(self, *, shift: bool = True) -> tuple[Tensor, Tensor]:
        """Return gamma and beta (d,): cov(n, t) / var(n) and the matching shift (gamma 0 where n does not vary).

        Without a shift beta is 0 and gamma E[n t] / E[n^2].
        """
        count, (sums,) = reduced(float(self._total), [self._about_zero()])
        n, t, nn, nt = sums / max(count, 1e-300)
        if not shift:
            n, t = torch.zeros_like(n), torch.zeros_like(t)
        variance = nn - n**2
        gamma = torch.where(variance > 1e-10, (nt - n * t) / variance.clamp_min(1e-300), 0.0)
        return gamma, t - gamma * n

    def _about_zero(self) -> Tensor:
        """Return the sums as they would be without an origin, which every process has of its own."""
        n, t, nn, nt = self._sums
        a, b = self._origin.cpu().double()
        return torch.stack(
            [
                n + self._total * a,
                t + self._total * b,
                nn + 2 * a * n + self._total * a**2,
                nt + a * t + b * n + self._total * a * b,
            ]
        )
