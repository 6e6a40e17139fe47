"""Eigen-decompositions of second moments: all of it, the top of it, or only its density."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from rmtkd_edge.errors import DataError, UserError

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


def top_k(matrix: Tensor | Array, k: int, seed: int = 0) -> tuple[Array, Array]:
    """Return the k largest eigenvalues (k,) descending and their eigenvectors as rows (k, d), by Lanczos (ARPACK).

    `seed` draws the starting vector. From k >= d / 2 on a full decomposition is cheaper and is what is done.
    Raises UserError for k outside 1..d, DataError for a bad matrix or when Lanczos does not converge.
    """
    double = _dense(matrix)
    d = len(double)
    if not 1 <= k <= d:
        raise UserError(f"k must lie in 1..{d}, it is {k}.")
    if k >= d / 2:
        values, rows = eigh_descending(double)
        return values[:k], rows[:k]
    start = np.random.default_rng(seed).standard_normal(d)
    try:
        values, vectors = eigsh(
            LinearOperator((d, d), matvec=double.__matmul__, dtype=np.float64), k=k, which="LA", v0=start
        )
    except ArpackNoConvergence as err:
        raise DataError(f"Lanczos did not converge for the top {k} of {d} eigenvalues.", "use eigh_descending") from err
    order = np.argsort(values)[::-1]
    return values[order], signed(torch.from_numpy(np.ascontiguousarray(vectors.T[order]))).numpy()


def bulk_density(
    matrix: Tensor | Array, *, steps: int = 64, probes: int = 16, seed: int = 0, deflate: Array | None = None
) -> tuple[Array, Array]:
    """Return nodes (ascending) and weights (sum 1) of the spectral density, by stochastic Lanczos quadrature.

    sum(weights * f(nodes)) estimates tr f(S) / d, exact for polynomials below degree 2 * steps up to the probes'
    noise, about (d * probes)^(-1/2). Rows of `deflate` (r, d), orthonormal eigenvectors (as of `top_k`), are left
    out: the density is then of the other d - r eigenvalues. Full reorthogonalisation. Cost: steps * probes products
    with S. Ubaru, Chen and Saad 2017.
    """
    double = _dense(matrix)
    d = len(double)
    out = np.zeros((0, d)) if deflate is None else np.asarray(deflate, dtype=np.float64)
    if len(out) >= d or steps < 1 or probes < 1:
        raise UserError("A density needs at least one direction that is not deflated, one step and one probe.")
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    for _ in range(probes):
        probe = rng.choice([-1.0, 1.0], size=d)
        probe -= (probe @ out.T) @ out
        theta, first = _lanczos(double, probe, min(steps, d - len(out)), out)
        nodes.append(theta)
        weights.append(first * (probe @ probe))  # E |probe|^2 f(...) is the trace over the complement
    node, weight = np.concatenate(nodes), np.concatenate(weights)
    order = np.argsort(node, kind="stable")
    return node[order], weight[order] / weight.sum()


def _lanczos(matrix: Array, start: Array, steps: int, out: Array) -> tuple[Array, Array]:
    """Return Ritz values and squared first entries of their vectors, of the matrix on the complement of `out`."""
    basis = np.zeros((steps, len(start)))
    alpha, beta = np.zeros(steps), np.zeros(steps)
    basis[0] = start / np.linalg.norm(start)
    scale, size = 0.0, steps
    for j in range(steps):
        w = matrix @ basis[j]
        scale = max(scale, float(np.linalg.norm(w)))
        alpha[j] = w @ basis[j]
        for _ in range(2):  # twice is enough
            w -= (w @ basis[: j + 1].T) @ basis[: j + 1]
            w -= (w @ out.T) @ out
        beta[j] = np.linalg.norm(w)
        if j + 1 == steps or beta[j] <= 1e-12 * scale:  # an invariant subspace: the quadrature is exact
            size = j + 1
            break
        basis[j + 1] = w / beta[j]
    tri = np.diag(alpha[:size]) + np.diag(beta[: size - 1], 1) + np.diag(beta[: size - 1], -1)
    theta, vectors = np.linalg.eigh(tri)
    return theta, vectors[0] ** 2


def approximate_spectrum(matrix: Tensor | Array, k: int, *, steps: int = 64, probes: int = 16, seed: int = 0) -> Array:
    """Return (d,) eigenvalues, descending: the top k by Lanczos, the others as quantiles of the bulk's estimated
    density.

    For widths whose full decomposition is too slow; `fit_edge` takes it like a spectrum. The bulk's values are
    smoothed.
    """
    top, rows = top_k(matrix, k, seed)
    nodes, weights = bulk_density(matrix, steps=steps, probes=probes, seed=seed, deflate=rows)
    rest = len(_dense(matrix)) - k
    # Each node's mass sits around it: interpolate the distribution function through the middle of its steps.
    levels = np.cumsum(weights) - weights / 2
    bulk = np.interp((np.arange(rest) + 0.5) / rest, levels, nodes)[::-1]
    return np.concatenate([top, np.minimum(bulk, top[-1])])


def _dense(matrix: Tensor | Array) -> Array:
    """Return the symmetrised float64 numpy matrix (d, d); DataError when not square or not finite."""
    double = np.asarray(matrix.detach().cpu() if isinstance(matrix, Tensor) else matrix, dtype=np.float64)
    if double.ndim != 2 or double.shape[0] != double.shape[1] or not np.isfinite(double).all():
        raise DataError(f"Expected a finite square matrix, got shape {double.shape}.")
    return (double + double.T) / 2
