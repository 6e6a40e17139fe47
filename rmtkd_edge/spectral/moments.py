"""Streaming second moments of activations: one pass, float64, nothing stored but sums.

Padding never enters: the caller passes the rows that count. Not done here: weights per row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError

CHUNK = 4096  # rows that are converted at a time, bounds the extra memory
PANEL = 192  # columns of a symmetric sum that are multiplied at a time: narrower ones are slower to multiply


class Moments:
    """Sums of x and x x^T over rows x (dim,), float64, on the device of the first rows (the CPU for MPS, which has no
    float64).

    With `heads`, dim = heads * h and only each head's own block is kept: second moments are (heads, h, h), else (dim,
    dim). `name` is what error messages call the rows.
    """

    def __init__(self, dim: int, *, heads: int | None = None, name: str = "activations") -> None:
        if dim < 1 or (heads is not None and (heads < 1 or dim % heads)):
            raise DataError(f"Moments of {name}: a width of {dim} cannot be split into {heads} heads.")
        self.dim, self.heads, self.name = dim, heads, name
        block = dim // (heads or 1)
        self.count = 0
        self._sum = torch.zeros(dim, dtype=torch.float64)
        self._outer = torch.zeros((dim, dim) if heads is None else (heads, block, block), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add rows `x` (n, dim) of any float dtype. Raises DataError for another shape, integers, NaN or infinity."""
        for rows in checked_chunks(x, self.dim, self.name):
            self._to(rows.device)
            self._sum += rows.sum(0)
            if self.heads is None:
                add_gram(self._outer, rows, rows)
            else:
                blocks = rows.view(len(rows), self.heads, -1).transpose(0, 1)
                self._outer.baddbmm_(blocks.mT, blocks)
            self.count += len(rows)

    def second(self) -> Tensor:
        """Return X X^T / n, not centred: (dim, dim) or (heads, h, h), float64, symmetric. DataError when empty."""
        return symmetrised(self._outer / self._counted())

    def mean(self) -> Tensor:
        """Return the mean row (dim,), float64. DataError when empty."""
        return self._sum / self._counted()

    def covariance(self) -> Tensor:
        """Return the centred second moment (divided by n), the shape of `second`."""
        mean = self.mean() if self.heads is None else self.mean().view(self.heads, -1)
        return self.second() - mean[..., :, None] * mean[..., None, :]

    def all_reduce(self) -> None:
        """Sum over all processes of torch.distributed, where initialised; else do nothing. Call it once, at the end."""
        count, (self._sum, self._outer) = reduced(self.count, [self._sum, self._outer])
        self.count = int(count)

    def _to(self, device: torch.device) -> None:
        if self.count == 0 and self._outer.device != device:
            self._sum, self._outer = self._sum.to(device), self._outer.to(device)

    def _counted(self) -> int:
        if self.count == 0:
            raise DataError(f"No rows of {self.name} were added.", "check that the calibration subset is not empty")
        return self.count


def add_gram(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left^T right, which is known to be symmetric, (n, d) each, to the lower triangle of `total` (d, d).

    Column panels leave out most of what is above the diagonal (a third less time for a thousand columns): what is there
    afterwards means nothing, see `symmetrised`.
    """
    for i in range(0, len(total), PANEL):
        add_product(total[i:, i : i + PANEL], left[:, i:], right[:, i : i + PANEL])


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left^T right, multiplied in their dtype, (n, i) and (n, j), to `total` (i, j)."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right


def symmetrised(total: Tensor) -> Tensor:
    """Return the symmetric matrices (..., d, d) whose lower triangles are those of `total`."""
    return total.tril() + total.tril(-1).mT


def checked_chunks(
    x: Tensor, dim: int, name: str, dtype: torch.dtype = torch.float64, rows: int = CHUNK
) -> Iterator[Tensor]:
    """Yield the rows of `x` (n, dim), at most `rows` at a time; all of x is checked to be finite before the first.

    Raises DataError naming the first bad entry.
    """
    if x.ndim != 2 or x.shape[1] != dim or not x.is_floating_point():
        raise DataError(f"{name}: expected float rows of shape (n, {dim}), got {tuple(x.shape)} {x.dtype}.")
    x = x.detach()
    if not math.isfinite(float(x.sum())) and not bool(torch.isfinite(x).all()):  # a sum of finite values may overflow
        bad = (~torch.isfinite(x)).nonzero()
        row, column = bad[0].tolist()
        raise DataError(
            f"{name}: {len(bad)} of {x.numel()} values are NaN or infinite, the first in row {row}, feature {column}.",
            "check the model's weights and inputs; half precision overflows above 65504",
        )
    for some in x.split(rows):
        if len(some):
            yield (some.cpu() if some.device.type == "mps" else some).to(dtype)


def distributed() -> bool:
    """Return whether torch.distributed is initialised."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def reduced(count: float, sums: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Return count and sums added over all processes of torch.distributed; unchanged when it is not initialised."""
    if not distributed():
        return count, sums
    # NCCL moves CUDA tensors only, and a process without rows still holds its sums on the CPU.
    device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
    total = torch.tensor(count, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    out = []
    for value in sums:
        moved = value.to(device).clone()
        torch.distributed.all_reduce(moved)
        out.append(moved.to(value.device))
    return float(total), out


def norm_scaled(x: Tensor) -> Tensor:
    """Return rows (n, d) scaled to the norm sqrt(d) each, zero rows left zero: for heavy tails, before the moments.

    Elliptical noise (a random scale per row) breaks the law's edge; its directions alone follow the law again.
    """
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, x / norm.clamp_min(torch.finfo(x.dtype).tiny), x) * x.shape[1] ** 0.5
