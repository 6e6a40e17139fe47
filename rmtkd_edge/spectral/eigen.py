"""Eigen-decompositions of second moments, with fixed signs."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmtkd_edge.errors import DataError

Array = NDArray[np.float64]


@overload
def eigh_descending(matrix: Tensor) -> tuple[Tensor, Tensor]: ...
@overload
def eigh_descending(matrix: Array) -> tuple[Array, Array]: ...
def eigh_descending(matrix: Tensor | Array) -> tuple[Tensor, Tensor] | tuple[Array, Array]:
    """Return eigenvalues (..., d) descending and eigenvectors as rows (..., d, d), float64, of a symmetric matrix.

    The matrix (numpy or torch, the result is of the same kind and device) is symmetrised first. Signs are fixed: the
    entry of largest magnitude of every row is positive. Raises DataError when it is not square or not finite.
    """
    if not isinstance(matrix, Tensor):
        values, rows = eigh_descending(torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float64)))
        return values.numpy(), rows.numpy()
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise DataError(f"Only square matrices have eigenvectors, the shape is {tuple(matrix.shape)}.")
    if not bool(torch.isfinite(matrix).all()):
        raise DataError("The matrix to decompose holds NaN or infinity.", "check the activations for NaN")
    double = matrix.to(torch.float64)
    try:
        values, vectors = torch.linalg.eigh((double + double.mT) / 2)
    except torch.linalg.LinAlgError as err:
        raise DataError(f"The eigen-decomposition did not converge: {err}") from err
    return values.flip(-1), signed(vectors.mT.flip(-2))


def signed(rows: Tensor) -> Tensor:
    """Return the rows (..., k, d) with the entry of largest magnitude made positive (the first one among ties)."""
    # Entries that tie up to roundoff must not decide by their last bit.
    magnitude = rows.abs()
    first = (magnitude >= magnitude.amax(-1, keepdim=True) * (1 - 1e-9)).to(torch.uint8).argmax(-1, keepdim=True)
    return (rows * torch.where(rows.gather(-1, first) < 0, -1.0, 1.0)).contiguous()
