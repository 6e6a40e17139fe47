"""Least squares of convolutions on the way of calibration images through teacher and student, layer by layer.

A layer's target is the teacher's normalised output, projected; of a block's last one, minus what the student's own
shortcut already holds, so that errors are corrected instead of stacked. The norm after it takes the student's own
moments and gives the fit back exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from rmtkd_edge.families.convolution import ConvNorm, ProjectedConv, set_norm
from rmtkd_edge.families.map_sample import MapSample, sampled
from rmtkd_edge.spectral import CrossMoments

L = TypeVar("L", bound=ConvNorm)
ROWS_PER_FEATURE = 12  # places that a least-squares fit looks at, for each of its inputs


@dataclass(frozen=True)
class Fit:
    """How layers are fitted: the ridge, the projections by site."""

    ridge: float
    projections: Mapping[str, Tensor]

    def onto(self, site: str, z: Tensor) -> Tensor:
        """Return what is left of a site's channels (B, d, ...) after its projection, where it has one."""
        p = self.projections.get(site)
        return z if p is None else torch.tensordot(z, p.to(z), ([1], [1])).movedim(-1, 1)

    def targets(self, site: str, samples: Sequence[MapSample], held: Sequence[Tensor] | None = None) -> list[MapSample]:
        """Return samples of a site's channels after its projection, minus what the student's maps hold already."""
        found = [replace(sample, values=self.onto(site, sample.values)) for sample in samples]
        if held is None:
            return found
        pairs = zip(found, held, strict=True)
        return [replace(sample, values=sample.values - sample.of(maps)) for sample, maps in pairs]


def places(features: int, each: int, batches: int) -> int:
    """Return how many places each of the batches gives to a fit of so many inputs, `each` for every input."""
    return -(-each * features // batches)


def places_of(conv: ProjectedConv, batches: int) -> int:
    """Return how many places each of the batches gives to the fit of a convolution."""
    return places(conv.weight[0].numel(), ROWS_PER_FEATURE, batches)


def samples_of(conv: ProjectedConv, outputs: Sequence[Tensor], seed: int) -> list[MapSample]:
    """Return samples of outputs (B, channels, H, W), batch by batch, at the places where a convolution is fitted."""
    count = places_of(conv, len(outputs))
    return [sampled(maps, count, seed + number) for number, maps in enumerate(outputs)]


def least_squares(
    conv: ProjectedConv, inputs: Sequence[Tensor], targets: Sequence[MapSample], fit: Fit
) -> tuple[Tensor, Tensor, CrossMoments]:
    """Return weight (k, in / groups, h, w) and bias (k,), float64, from the inputs' patches to the targets.

    Every group is solved by itself; the moments are those of the last one.
    """
    features, groups, solved = conv.weight[0].numel(), conv.groups, []
    for group in range(groups):
        moments = CrossMoments(features, targets[0].values.shape[1] // groups, ridge=fit.ridge)
        for x, target in zip(inputs, targets, strict=True):
            read = target.patches(conv, x.chunk(groups, 1)[group])
            moments.add(read, target.values.chunk(groups, 1)[group])
        moments.all_reduce()
        solved.append(moments.solve(fit.ridge))
    weight, bias = (torch.cat(parts) for parts in zip(*solved, strict=True))
    return weight.reshape(-1, *conv.weight.shape[1:]), bias, moments


def fitted_outputs(
    layer: L,
    inputs: Sequence[Tensor],
    site: str,
    wanted: Sequence[MapSample],
    fit: Fit,
    changed: bool,
    held: Sequence[Tensor] | None = None,
    fit_layer: Callable[[L, Sequence[Tensor], Sequence[MapSample], Fit], list[Tensor]] | None = None,
) -> list[Tensor]:
    """Return what a layer gives for its inputs, fitted first where something has changed.

    Args:
        wanted: what the teacher's layer gives.
        held: what is there already, and is not to be written again.
        fit_layer: in place of `fit_convolution`.
    """
    if not changed:
        return [layer(x) for x in inputs]
    count = places_of(layer.conv, len(inputs))
    targets = fit.targets(site, [sample.first(count) for sample in wanted], held)
    return (fit_layer or fit_convolution)(layer, inputs, targets, fit)


def fit_convolution(layer: ConvNorm, inputs: Sequence[Tensor], targets: Sequence[MapSample], fit: Fit) -> list[Tensor]:
    """Set a convolution and its norm to the least-squares map from the inputs' patches to the targets.

    Returns:
        What the layer gives now for every input.
    """
    weight, bias, _ = least_squares(layer.conv, inputs, targets, fit)
    layer.conv.weight.copy_(weight)
    return normalised(layer, bias, inputs)


def normalised(layer: ConvNorm, bias: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Set a layer's norm, see `set_norm`, and return what the layer gives for every input."""
    outputs = [layer.linear(x) for x in inputs]
    set_norm(layer.norm, bias, outputs)
    return [layer.norm(z) for z in outputs]
