"""Streaming cross moments of two sets of features, and the affine map between them by ridge least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral.moments import CHUNK, add_gram, add_product, checked_chunks, distributed, reduced, symmetrised

LEAST_RIDGE = 1e-6  # for products in float32, whose roundoff it has to hide
FLOAT32_ROWS = 1024  # summed in float32 at a time


class CrossMoments:
    """Sums of x, y, x x^T and y x^T over paired rows x (dx,), y (dy,); float64, one pass.

    Args:
        ridge: the least that `solve` will be given. From 1e-6 on, rows of float32 on a CPU are multiplied in float32,
            about the mean of the first ones and 1,024 at a time, which takes less than half of the time. (On a GPU
            float32 may be TF32, whose products are too coarse.)

    Attributes:
        count: rows, or the sum of their weights.
        solver: how the last `solve` went: "cholesky", or "eigh" (pseudo-inverse) where the matrix was not positive
            definite.
    """

    def __init__(self, dx: int, dy: int, *, name: str = "activations", ridge: float = 0.0) -> None:
        self.dx, self.dy, self.name = dx, dy, name
        self.count: float = 0
        self.solver: str | None = None
        self._single = ridge >= LEAST_RIDGE
        self._origin = [torch.zeros(size, dtype=torch.float64) for size in (dx, dy)]  # what the sums are about
        self._sums = [torch.zeros(shape, dtype=torch.float64) for shape in ((dx,), (dy,), (dx, dx), (dy, dx))]

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Add paired rows x (n, dx), y (n, dy) of any float dtype, each counted `weights` (n,) times (once when None).

        Raises DataError for other shapes, NaN, infinity or a negative weight.
        """
        if len(x) != len(y) or (weights is not None and weights.shape != (len(x),)):
            raise DataError(
                f"{self.name}: {len(x)} rows of inputs against {len(y)} rows of targets (or other weights)."
            )
        if weights is not None and not bool((weights >= 0).all()):
            raise DataError(f"{self.name}: a weight is negative or not a number.")
        # Both sides are checked before a sum is touched.
        single = self._single and x.device.type in ("cpu", "mps") and torch.float64 not in (x.dtype, y.dtype)
        dtype, rows = (torch.float32, FLOAT32_ROWS) if single else (torch.float64, CHUNK)
        pairs = zip(
            list(checked_chunks(x, self.dx, f"{self.name} (inputs)", dtype, rows)),
            list(checked_chunks(y, self.dy, f"{self.name} (targets)", dtype, rows)),
            strict=True,
        )
        place = 0
        for a, b in pairs:
            if self.count == 0:
                self._sums = [value.to(a.device) for value in self._sums]
                self._origin = [v.mean(0).double() if self._single else torch.zeros_like(v[0]) for v in (a, b)]
            w = None if weights is None else weights[place : place + len(a)].to(a)[:, None]
            if self._single:
                a, b = (v - origin.to(v) for v, origin in zip((a, b), self._origin, strict=True))
            self._add(a, b, w)
            place += len(a)

    def _add(self, a: Tensor, b: Tensor, w: Tensor | None) -> None:
        wa, wb = (a, b) if w is None else (a * w, b * w)
        sx, sy, sxx, syx = self._sums
        sx += wa.sum(0)
        sy += wb.sum(0)
        add_gram(sxx, wa, a)
        add_product(syx, wb, a)
        self.count += len(a) if w is None else float(w.double().sum())

    def solve(self, ridge: float = 1e-4, *, intercept: bool = True) -> tuple[Tensor, Tensor]:
        """Return (W (dy, dx), b (dy,)), float64, minimising E|y - W x - b|^2 + penalty |W|^2; the intercept is not
        penalised.

        The penalty is `ridge` times the mean diagonal of the centred E[x x^T]. Where that matrix, penalty included,
        is not positive definite (ridge 0 with dependent features, or constant x) the minimum-norm solution is taken
        from its eigen-decomposition, directions below 1e-12 of the largest left out, and `solver` says "eigh".
        Without an intercept b is 0, and nothing is centred.
        """
        least = LEAST_RIDGE if self._single else 0.0
        if not ridge >= least:
            raise UserError(f"The ridge must be {least:g} or more, it is {ridge}.")
        mx, my, cxx, cyx = self._centred(intercept)
        mean = float(cxx.diagonal().mean())
        cxx.diagonal().add_(ridge * mean)
        factor, info = torch.linalg.cholesky_ex(cxx)
        # A pivot at roundoff level is a singular matrix that happened to pass.
        sound = int(info) == 0 and float(factor.diagonal().min()) ** 2 > 1e-13 * float(cxx.diagonal().max())
        if sound:
            weight, self.solver = torch.cholesky_solve(cyx.T, factor).T, "cholesky"
        else:
            values, vectors = torch.linalg.eigh(cxx)
            good = values > 1e-12 * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
            inverse = torch.where(
                good, 1 / torch.where(good, values, torch.ones_like(values)), torch.zeros_like(values)
            )
            weight, self.solver = ((cyx @ vectors) * inverse) @ vectors.T, "eigh"
        return weight.contiguous(), my - weight @ mx

    def mean_targets(self) -> Tensor:
        """Return the mean of y (dy,), float64."""
        return self._centred()[1]

    def mean_inputs(self) -> Tensor:
        """Return the mean of x (dx,), float64."""
        return self._centred()[0]

    def covariance(self) -> Tensor:
        """Return the covariance (dx, dx) of x, float64."""
        return self._centred()[2]

    def covariance_of(self, weight: Tensor) -> Tensor:
        """Return the covariance (m, m), float64, of weight x for weight (m, dx)."""
        w = weight.double()
        return w @ self.covariance().to(w.device) @ w.T

    def all_reduce(self) -> None:
        """Sum over all processes of torch.distributed, where initialised; else do nothing. Call it once, at the end."""
        if self._single and distributed():  # every process has an origin of its own
            self._sums = self._about_zero()
            self._origin = [torch.zeros_like(origin) for origin in self._origin]
        self.count, self._sums = reduced(self.count, self._sums)

    def _about_zero(self) -> list[Tensor]:
        sx, sy, sxx, syx = self._sums
        ox, oy = self._origin
        both = torch.outer(sx, ox)
        xx = symmetrised(sxx) + both + both.T + self.count * torch.outer(ox, ox)
        yx = syx + torch.outer(sy, ox) + torch.outer(oy, sx + self.count * ox)
        return [sx + self.count * ox, sy + self.count * oy, xx, yx]

    def _centred(self, centre: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean x, mean y, centred E[x x^T] and centred E[y x^T]; new tensors. Means of 0 where not centred."""
        if self.count == 0:
            raise DataError(f"No rows of {self.name} were added.", "check that the calibration subset is not empty")
        mx, my, sxx, syx = (value / self.count for value in (self._sums if centre else self._about_zero()))
        if not centre:
            return torch.zeros_like(mx), torch.zeros_like(my), symmetrised(sxx), syx
        cxx = symmetrised(sxx) - mx[:, None] * mx[None, :]
        return mx + self._origin[0], my + self._origin[1], cxx, syx - my[:, None] * mx[None, :]
