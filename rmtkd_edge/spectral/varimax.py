"""Varimax: turn a basis towards the axes, so that elementwise nonlinearities and norms lose less behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral.eigen import signed


def varimax(rows: Tensor, iterations: int = 60, tol: float = 1e-5) -> Tensor:
    """Return O P (k, d), float64, of orthonormal `rows` P (k, d): the same span, the fourth powers of the entries large.

    Kaiser's criterion sum_i [ sum_j a_ij^4 - (sum_j a_ij^2)^2 / d ], which for orthonormal rows is the sum of fourth powers
    less a constant. Each step takes the polar factor of the gradient A (A^3)^T (k, k): 4 k^2 d flops and one SVD of width k.
    The criterion never falls. Stops after `iterations` or when it rises by less than the share `tol`. Deterministic; entries of
    largest magnitude are made positive. Raises DataError when the rows are not orthonormal to 1e-6.
    """
    if rows.ndim != 2 or rows.shape[0] > rows.shape[1] or rows.shape[0] == 0:
        raise DataError(f"varimax needs k <= d orthonormal rows, got shape {tuple(rows.shape)}.")
    turned = rows.to(torch.float64)
    eye = torch.eye(len(turned), dtype=torch.float64, device=turned.device)
    if not bool(((turned @ turned.T - eye).abs() <= 1e-6).all()):
        raise DataError(
            "varimax needs orthonormal rows; these are not (or hold NaN).", "orthonormalise them by QR first"
        )
    criterion = 0.0
    for _ in range(iterations):
        cubes = turned**3
        reached = float((cubes * turned).sum())
        if reached <= criterion * (1 + tol):
            break
        criterion = reached
        # The sum of fourth powers is convex in A, so its linear bound is met best by the polar factor: it cannot fall.
        u, _, vh = torch.linalg.svd(cubes @ turned.T)
        turned = (u @ vh) @ turned
    # Products of orthogonal matrices drift by roundoff only; one QR, its signs undone, takes that away.
    q, r = torch.linalg.qr(turned.T)
    return signed((q * torch.sign(r.diagonal())).T)
