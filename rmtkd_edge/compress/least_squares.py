"""Weighted ridge least squares from streamed cross-moments, and the fit of a norm's scale and shift."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class LeastSquares:
    """Streaming weighted regression of y (n, dy) on x (n, dx) with an intercept; float64, one pass, nothing stored."""

    def __init__(self, dx: int, dy: int) -> None:
        self.gram = torch.zeros(dx + 1, dx + 1, dtype=torch.float64)
        self.cross = torch.zeros(dx + 1, dy, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Add rows; `weights` (n,) are non-negative, 1 where left out."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
        scaled = x if weights is None else x * weights[:, None].double()
        self.gram += (scaled.T @ x).cpu()
        self.cross += (scaled.T @ y.double()).cpu()

    def all_reduce(self) -> None:
        """Sum over the processes of a distributed run (nothing to do in a single one)."""
        if dist.is_available() and dist.is_initialized():
            for tensor in (self.gram, self.cross):
                dist.all_reduce(tensor)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return W (dy, dx) and b (dy,) minimising sum w |y - W x - b|^2 + ridge * mean variance of x * |W|^2.

        The moments are centred first, so that the ridge never shrinks the intercept.
        """
        self.all_reduce()
        total = self.gram[-1, -1].clamp_min(1e-300)
        mean_x, mean_y = self.gram[-1, :-1] / total, self.cross[-1] / total
        cxx = self.gram[:-1, :-1] / total - torch.outer(mean_x, mean_x)
        cxy = self.cross[:-1] / total - torch.outer(mean_x, mean_y)
        cxx = cxx + torch.eye(len(cxx), dtype=torch.float64) * (ridge * cxx.diagonal().mean() + 1e-12)
        weight = torch.linalg.solve(cxx, cxy).T
        return weight, mean_y - weight @ mean_x


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

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return gamma and beta (d,): cov(n, t) / var(n) and the matching shift (gamma 0 where n does not vary)."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.sums)
        total, n, t, nn, nt, _ = self.sums
        total = total.clamp_min(1e-300)
        mean_n, mean_t = n / total, t / total
        variance = nn / total - mean_n**2
        gamma = torch.where(variance > 1e-10, (nt / total - mean_n * mean_t) / variance.clamp_min(1e-300), 0.0)
        return gamma, mean_t - gamma * mean_n
