"""Tensors in, numbers out: streaming moments, the Marchenko-Pastur law, the edge of a spectrum, eigensolvers.

Names are imported when they are first used, so that the law alone (which the report draws) needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmtkd_edge.spectral.cross import CrossMoments
    from rmtkd_edge.spectral.edge import EdgeFit, fit_edge
    from rmtkd_edge.spectral.effect import effect_weights, weighted_matrix, weighted_spectrum
    from rmtkd_edge.spectral.effective import effective_sample_size
    from rmtkd_edge.spectral.eigen import eigh_descending
    from rmtkd_edge.spectral.flips import sign_flipped
    from rmtkd_edge.spectral.moments import Moments, norm_scaled
    from rmtkd_edge.spectral.rotation import varimax
    from rmtkd_edge.spectral.rules import RULES

_PLACES = {
    "CrossMoments": "cross",
    "EdgeFit": "edge",
    "Moments": "moments",
    "RULES": "rules",
    "effect_weights": "effect",
    "effective_sample_size": "effective",
    "eigh_descending": "eigen",
    "fit_edge": "edge",
    "norm_scaled": "moments",
    "sign_flipped": "flips",
    "varimax": "rotation",
    "weighted_matrix": "effect",
    "weighted_spectrum": "effect",
}

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


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
