"""Factors: a convolution W as P^T (P W), a thin one and a 1 x 1 one after it, before norm and ReLU.

What the projection drops is all that is lost: nothing after the pair has to be narrower, nothing else is refitted.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rmtkd_edge.families.resnet.module import Layer
from rmtkd_edge.families.resnet.spec import FACTOR


def factor_basis(own: Layer, second: Tensor, projections: Mapping[str, Tensor]) -> Tensor:
    """Return P (k, out) with orthonormal rows for a layer that has a factor.

    A new factor has the analysis's P. One of an earlier cycle is refitted: the strongest directions of `second`
    (out, out), the moment of what the layer writes.
    """
    assert own.expand is not None, "the layer has a factor"
    given = projections.get(f"{own.place}{FACTOR}")
    if given is not None and given.shape[1] == len(second):
        return given.to(second)
    rank = own.expand.weight.shape[1]
    return torch.linalg.eigh(second)[1].flip(-1)[:, :rank].T


def set_weight(own: Layer, weight: Tensor, basis: Tensor | None) -> None:
    """Set a layer to the weight (out, in, h, w): as it is, or P W with P^T after it."""
    if basis is None or own.expand is None:
        own.conv.weight.copy_(weight)
        return
    own.conv.weight.copy_(torch.einsum("kd,dihw->kihw", basis, weight))
    own.expand.weight.copy_(basis.T[:, :, None, None])
