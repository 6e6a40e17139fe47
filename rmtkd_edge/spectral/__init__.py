"""Tensors in, numbers out: streaming moments, the Marchenko-Pastur law, the edge of a spectrum, eigensolvers."""

from rmtkd_edge.spectral.cross import CrossMoments
from rmtkd_edge.spectral.edge import EdgeFit, fit_edge
from rmtkd_edge.spectral.effect import effect_weights, weighted_matrix, weighted_spectrum
from rmtkd_edge.spectral.effective import effective_sample_size
from rmtkd_edge.spectral.eigen import eigh_descending
from rmtkd_edge.spectral.flips import sign_flipped
from rmtkd_edge.spectral.moments import Moments, norm_scaled
from rmtkd_edge.spectral.rules import RULES
from rmtkd_edge.spectral.varimax import varimax

__all__ = [
    "RULES",
    "CrossMoments",
    "EdgeFit",
    "Moments",
    "effect_weights",
    "effective_sample_size",
    "eigh_descending",
    "fit_edge",
    "norm_scaled",
    "sign_flipped",
    "varimax",
    "weighted_matrix",
    "weighted_spectrum",
]
