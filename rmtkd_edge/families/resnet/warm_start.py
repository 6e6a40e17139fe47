"""Warm start of a narrowed ResNet in closed form: every convolution by least squares on the student's own patches.

The student goes block by block over the calibration images, each layer towards what the teacher's gives there;
families/convolution_fit.py says how a layer is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.convolution import narrow_like
from rmtkd_edge.families.convolution_fit import Fit, fit_convolution, fitted_outputs, least_squares, normalised
from rmtkd_edge.families.layers import copy_fitting
from rmtkd_edge.families.map_sample import MapSample
from rmtkd_edge.families.resnet.factors import factor_basis, set_weight
from rmtkd_edge.families.resnet.fold import Projections
from rmtkd_edge.families.resnet.module import Block, Layer, ResNet
from rmtkd_edge.families.resnet.spec import FACTOR
from rmtkd_edge.families.teacher_layers import LayerOutputs, TeacherLayers
from rmtkd_edge.spectral import CrossMoments


@torch.no_grad()
def warm_start(teacher: TeacherLayers[ResNet], projections: Projections, *, ridge: float) -> ResNet:
    """Return the folded narrow net for projections P (k x d) by site; sites left out stay wide."""
    wide, outputs, fit = teacher.teacher, teacher.outputs(), Fit(ridge, projections)
    student = narrow_like(wide, projections).eval()
    copy_fitting(wide, student)
    first = "layer.1.stream" if wide.spec.stem_is_shared else "stem"
    changed = first in projections or _cuts(student.stem, fit)
    states = _outputs(student.stem, teacher.images, first, next(outputs), fit, changed)
    states = [student.pool(F.relu(z)) for z in states]
    for i, stage in enumerate(student.stages, 1):
        for block in stage:
            states, changed = _block(block, states, f"layer.{i}.stream", outputs, fit, changed)
    if changed:
        _classifier(student, states, next(outputs), ridge)
    return student


def _block(
    own: Block, states: list[Tensor], stream: str, outputs: LayerOutputs, fit: Fit, changed: bool
) -> tuple[list[Tensor], bool]:
    """Fit one block; return its states, and whether anything has changed so far."""
    inner, shortcuts, moved = states, states, changed
    for layer in own.convs[:-1]:
        moved = moved or layer.place in fit.projections or _cuts(layer, fit)
        inner = [F.relu(z) for z in _outputs(layer, inner, layer.place, next(outputs), fit, moved)]
    if own.downsample is not None:
        again = changed or stream in fit.projections or _cuts(own.downsample, fit)
        shortcuts = _outputs(own.downsample, states, stream, next(outputs), fit, again)
        moved = moved or again
    moved = moved or stream in fit.projections or _cuts(own.convs[-1], fit)
    added = _outputs(own.convs[-1], inner, stream, next(outputs), fit, moved, shortcuts)
    return [F.relu(z + h) for z, h in zip(added, shortcuts, strict=True)], moved


def _fit(layer: Layer, inputs: Sequence[Tensor], targets: Sequence[MapSample], fit: Fit) -> list[Tensor]:
    """Set a convolution, or its two, and its norm to the least-squares map from the inputs' patches to the targets.

    Returns:
        What the layer gives now for every input.
    """
    if layer.expand is None:
        return fit_convolution(layer, inputs, targets, fit)
    weight, bias, moments = least_squares(layer.conv, inputs, targets, fit)
    basis = factor_basis(layer, moments.covariance_of(weight.flatten(1)), fit.projections)
    written = moments.mean_targets() - bias  # the mean of what the factor drops goes into the norm's shift
    set_weight(layer, weight, basis)
    return normalised(layer, bias + written - basis.T @ (basis @ written), inputs)


_outputs = partial(fitted_outputs, fit_layer=_fit)


def _cuts(layer: Layer, fit: Fit) -> bool:
    """Return whether a layer gets a new factor."""
    return f"{layer.place}{FACTOR}" in fit.projections


def _classifier(student: ResNet, states: Sequence[Tensor], logits: Sequence[MapSample], ridge: float) -> None:
    """Set the classifier to the least-squares map from the student's pooled channels to the teacher's logits."""
    labels, inputs = student.classifier.weight.shape
    moments = CrossMoments(inputs, labels)
    for state, target in zip(states, logits, strict=True):
        moments.add(state.mean((2, 3)), target.values)
    moments.all_reduce()
    weight, bias = moments.solve(ridge)
    student.classifier.weight.copy_(weight)
    student.classifier.bias.copy_(bias)
