"""Least squares of convolutions on the way of calibration images through teacher and student, layer by layer.

A layer's target is the teacher's normalised output, projected; of a block's last one, minus what the student's own
shortcut already holds, so that errors are corrected instead of stacked. The norm after it takes the student's own
moments and gives the fit back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmtkd_edge.families.convolution import ConvNorm, ProjectedConv, patches, set_norm
from rmtkd_edge.spectral import CrossMoments

ROWS_PER_FEATURE = 12  # patches that a least-squares fit looks at, for each of its inputs


@dataclass(frozen=True)
class Fit:
    """How layers are fitted: ridge, how many batches share the places, the seed that picks them; projections."""

    ridge: float
    batches: int
    seed: int
    projections: Mapping[str, Tensor]

    def onto(self, site: str, z: Tensor) -> Tensor:
        """Return what is left of a site's channels (B, d, ...) after its projection, where it has one."""
        p = self.projections.get(site)
        return z if p is None else torch.tensordot(z, p.to(z), ([1], [1])).movedim(-1, 1)

    def places(self, features: int, each: int) -> int:
        """Return the places that a batch gives to a fit of so many inputs."""
        return -(-each * features // self.batches)


def least_squares(
    conv: ProjectedConv, inputs: Sequence[Tensor], targets: Sequence[Tensor], fit: Fit
) -> tuple[Tensor, Tensor, CrossMoments]:
    """Return weight (k, in / groups, h, w) and bias (k,), float64, from the inputs' patches to the targets.

    Every group is solved by itself; the moments are those of the last one.
    """
    features, groups = conv.weight[0].numel(), conv.groups
    count, solved = fit.places(features, ROWS_PER_FEATURE), []
    for group in range(groups):
        moments = CrossMoments(features, targets[0].shape[1] // groups, ridge=fit.ridge)
        for number, (x, target) in enumerate(zip(inputs, targets, strict=True)):
            mine = (x.chunk(groups, 1)[group], target.chunk(groups, 1)[group])
            moments.add(*patches(conv, *mine, count, fit.seed + number))
        moments.all_reduce()
        solved.append(moments.solve(fit.ridge))
    weight, bias = (torch.cat(parts) for parts in zip(*solved, strict=True))
    return weight.reshape(-1, *conv.weight.shape[1:]), bias, moments


def fit_convolution(layer: ConvNorm, inputs: Sequence[Tensor], targets: Sequence[Tensor], fit: Fit) -> None:
    """Set a convolution and its norm to the least-squares map from the inputs' patches to the targets."""
    weight, bias, _ = least_squares(layer.conv, inputs, targets, fit)
    layer.conv.weight.copy_(weight)
    set_norm(layer.norm, bias, map(layer.linear, inputs))
