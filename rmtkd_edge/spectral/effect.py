"""Spectra weighted by effect on the output: variance that moves nothing is not signal."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral.eigen import eigh_descending


def effect_weights(gradient: Tensor, blend: float) -> Tensor:
    """Return G (..., d, d) float64: d ((1 - blend) G / tr G + blend I / d), so that its trace is d and blend = 1
    gives I.

    `gradient` is the second moment of the output's gradient at the site. Raises UserError for a blend outside [0, 1],
    DataError for a gradient that is zero or not finite.
    """
    if not 0 <= blend <= 1:
        raise UserError(f"blend must lie in [0, 1], it is {blend}.")
    double = gradient.to(torch.float64)
    d = double.shape[-1]
    eye = torch.eye(d, dtype=torch.float64, device=double.device).expand_as(double)
    if blend == 1:
        return eye.clone()
    trace = double.diagonal(dim1=-2, dim2=-1).sum(-1)
    if not bool((torch.isfinite(trace) & (trace > 0)).all()):
        raise DataError(
            "the outputs do not depend on this site: the second moment of their gradient has no positive, finite trace",
            "a model that gives every row the same answer has nothing to compress: train it longer (train.epochs, "
            "train.learning_rate), and check model.source, its tokenizer and the labels",
        )
    return (1 - blend) * d * double / trace[..., None, None] + blend * eye


def weighted_matrix(second: Tensor, gradient: Tensor, blend: float) -> Tensor:
    """Return G^(1/2) S G^(1/2) (..., d, d), float64, symmetric, with G = `effect_weights(gradient, blend)`."""
    root = _root(effect_weights(gradient, blend))
    product = root @ second.to(torch.float64) @ root
    return (product + product.mT) / 2


def weighted_spectrum(second: Tensor, gradient: Tensor, blend: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (..., d) descending of G^(1/2) S G^(1/2) and orthonormal rows P (..., d, d) to project on.

    The first k rows span the same space as the first k of V G^(1/2), V the eigenvectors as rows: orthonormalised in
    order, by QR. blend = 1 gives the plain spectrum of S. With blend = 0 and a singular G the rows beyond its rank
    are arbitrary.
    """
    weights = effect_weights(gradient, blend)
    if blend == 1:
        return eigh_descending(second.to(torch.float64))
    factor = _factor(weights)
    product = factor.mT @ second.to(torch.float64) @ factor
    values, vectors = eigh_descending((product + product.mT) / 2)
    q, r = torch.linalg.qr((vectors @ factor.mT).mT)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    return values, (q * torch.where(diagonal < 0, -1.0, 1.0)[..., None, :]).mT.contiguous()


def _factor(weights: Tensor) -> Tensor:
    """Return F with F F^T = `weights`: Cholesky's where it exists (a third of an eigen-decomposition), else the root.

    F = G^(1/2) Q with Q orthogonal, so F^T S F has the eigenvalues of G^(1/2) S G^(1/2), and F times its eigenvectors
    is G^(1/2) times theirs: spectrum and directions do not depend on which factor is taken.
    """
    factor, info = torch.linalg.cholesky_ex(weights)
    return _root(weights) if bool((info != 0).any()) else factor


def _root(weights: Tensor) -> Tensor:
    """Return the symmetric square root of a positive semi-definite matrix; roundoff below zero counts as zero."""
    values, rows = eigh_descending(weights)
    if bool((values[..., -1] < -1e-9 * values[..., 0].abs()).any()):
        raise DataError("The gradient's second moment has negative eigenvalues, so it is the second moment of nothing.")
    return (rows.mT * values.clamp_min(0).sqrt()[..., None, :]) @ rows
