"""Channels in the order in which pivoted Cholesky takes them."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-12  # of the largest diagonal entry: what is left below that is roundoff


class PivotOrder:
    """The pivots of a moment's Cholesky factorisation, found as far as they are asked for.

    Pivoted Cholesky of X X^T takes the columns that pivoted QR of X^T takes (Higham 1990). The order is greedy: a
    shorter one is the beginning of a longer one, so that many ranks of the same channels cost what the highest does.

    Args:
        second: the moment (d, d), float64.
        weights: how much the channels count (d,), with a tenth of the mean as their floor; all the same when None.
    """

    def __init__(self, second: Tensor, weights: Tensor | None = None) -> None:
        matrix = second.clone()
        if weights is not None:
            scale = weights.clamp_min(0).sqrt()
            scale = scale / scale.mean() + 0.1
            matrix = matrix * scale[:, None] * scale[None, :]
        self._matrix = matrix
        self._left = matrix.diagonal().clone()
        self._smallest = SMALLEST * float(self._left.max())
        self._factors = matrix.new_zeros(0, len(matrix))
        self._pivots: list[int] = []

    def first(self, count: int) -> list[int]:
        """Return the first `count` channels; those that only repeat earlier ones come last, the largest first."""
        room = min(count, len(self._matrix)) - len(self._factors)
        if room > 0:
            self._factors = torch.cat([self._factors, self._matrix.new_zeros(room, len(self._matrix))])
        while len(self._pivots) < count:
            pivot = int(self._left.argmax())
            if not float(self._left[pivot]) > self._smallest:
                rest = self._matrix.diagonal().clone()
                rest[self._pivots] = -torch.inf
                others = len(rest) - len(self._pivots)
                self._pivots += rest.argsort(descending=True, stable=True)[:others].tolist()
                break
            self._take(pivot)
        return self._pivots[:count]

    def _take(self, pivot: int) -> None:
        step = len(self._pivots)
        known = self._factors[:step]
        column = (self._matrix[pivot] - known.T @ known[:, pivot]) / self._left[pivot].sqrt()
        self._factors[step] = column
        self._left = self._left - column**2
        self._pivots.append(pivot)
        self._left[self._pivots] = -torch.inf
