"""The spectrum of a wide linear layer's output, at the cost of its narrower input.

The FFN's inner width m is four times the width d of its input, but W x + b has at most d + 1 directions. With
x~ = (x, 1), W~ = (W, b), C = E[x~ x~^T] and A = W~ C^(1/2), the nonzero eigenvalues of G^(1/2) W~ C W~^T G^(1/2) are
those of A^T G A, (d + 1) wide, and an eigenvector u of it gives the direction G A u: the decomposition costs
(m / d)^3 less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral import Moments, eigh_descending
from rmtkd_edge.spectral.moments import reduced

NULL = 1e-12  # eigenvalues below this share of the largest are no directions


class LinearMoments:
    """Streams the inputs of a linear layer, and the gradient at its output, into moments of the input's width."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Take the folded weight (m, d) and bias (m,)."""
        self.map = torch.cat([weight, bias[:, None]], 1).detach().double().cpu()
        width = self.map.shape[1]
        self.inputs = Moments(width, name="inputs of the feed-forward layer")
        self.inner = torch.zeros(width, width, dtype=torch.float64)
        self.cross = torch.zeros(len(self.map), width, dtype=torch.float64)
        self.trace = torch.zeros(1, dtype=torch.float64)
        self.gradients: float = 0

    def add(self, x: Tensor) -> None:
        """Add inputs of the layer, (n, d)."""
        self.inputs.add(torch.cat([x, torch.ones_like(x[:, :1])], 1))

    def add_gradient(self, gradient: Tensor) -> None:
        """Add gradients of the logits at the layer's output, (n, m)."""
        g = gradient.double().cpu()
        back = g @ self.map
        self.inner += back.T @ back
        self.cross += g.T @ back
        self.trace += g.pow(2).sum()
        self.gradients += len(g)

    def all_reduce(self) -> None:
        """Sum over the processes of a distributed run."""
        self.inputs.all_reduce()
        self.gradients, (self.inner, self.cross, self.trace) = reduced(
            self.gradients, [self.inner, self.cross, self.trace]
        )

    def spectrum(self, blend: float, centred: bool) -> tuple[Tensor, Tensor]:
        """Return the eigenvalues (m,), descending and zero from the rank on, and orthonormal rows (rank, m).

        They are those of `spectral.weighted_spectrum` on the output's own moments (without gradients: of the plain
        moment). Raises DataError where the output does not move at all, or not the logits.
        """
        matrix, size = self.map, len(self.map)
        moment = self.inputs.second().cpu()
        if centred:
            mean = self.inputs.mean().cpu()
            moment = moment - torch.outer(mean, mean)
        values, rows = eigh_descending(moment)
        root = rows.T * values.clamp_min(0).sqrt()  # (d + 1, d + 1), root root^T = C
        share, plain = self._weights(blend, size)
        inner = plain * matrix.T @ matrix + share * self.inner
        product = root.T @ inner @ root
        values, vectors = eigh_descending((product + product.T) / 2)
        if not float(values[0]) > 0:
            raise DataError("the feed-forward layer's output is zero on the whole calibration subset")
        rank = min(size, int((values > NULL * values[0]).sum()))
        towards = root @ vectors[:rank].T
        directions = plain * matrix @ towards + share * self.cross @ towards
        q, r = torch.linalg.qr(directions)
        padded = torch.zeros(size, dtype=torch.float64)
        padded[:rank] = values[:rank]
        return padded, (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).T.contiguous()

    def _weights(self, blend: float, size: int) -> tuple[float, float]:
        """Return the factors of E[g g^T] (as summed) and of the identity in G."""
        if not self.gradients:
            return 0.0, 1.0
        if not float(self.trace) > 0:
            raise DataError("The logits do not depend on the feed-forward layer.", "is the model trained?")
        return (1 - blend) * size / float(self.trace), blend
