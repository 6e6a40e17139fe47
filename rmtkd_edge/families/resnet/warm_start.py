"""Warm start of a narrowed ResNet in closed form: every convolution by least squares on the student's own patches.

Teacher and student walk block by block over the calibration images; families/convolution_fit.py says how a layer is
fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.convolution import narrow_like, set_norm
from rmtkd_edge.families.convolution_fit import Fit, fit_convolution, least_squares
from rmtkd_edge.families.layers import copy_fitting
from rmtkd_edge.families.resnet.factors import factor_basis, set_weight
from rmtkd_edge.families.resnet.fold import Projections
from rmtkd_edge.families.resnet.module import Block, Layer, ResNet
from rmtkd_edge.families.resnet.spec import FACTOR
from rmtkd_edge.families.walk import Walk
from rmtkd_edge.spectral import CrossMoments


@torch.no_grad()
def warm_start(
    teacher: ResNet, projections: Projections, batches: Iterable[Mapping[str, Tensor]], *, ridge: float, seed: int
) -> ResNet:
    """Return the folded narrow net for projections P (k x d) by site; sites left out stay wide. `teacher` is folded."""
    teacher.eval()
    student = narrow_like(teacher, projections).eval()
    copy_fitting(teacher, student)
    images = [batch["pixel_values"].to(next(teacher.parameters())) for batch in batches]
    fit = Fit(ridge, len(images), seed, projections)
    first = "layer.1.stream" if teacher.spec.stem_is_shared else "stem"
    sums = [teacher.stem(x) for x in images]
    changed = first in projections or _cuts(student.stem, fit)
    if changed:
        _fit(student.stem, images, [fit.onto(first, total) for total in sums], fit)
    walks = [
        Walk(teacher.pool(F.relu(total)), student.pool(F.relu(student.stem(x))))
        for x, total in zip(images, sums, strict=True)
    ]
    del images, sums
    for i, (wide, narrow) in enumerate(zip(teacher.stages, student.stages, strict=True), 1):
        for block, small in zip(wide, narrow, strict=True):
            changed = _block(block, small, walks, f"layer.{i}.stream", fit, changed)
    if changed:
        _classifier(teacher, student, walks, ridge)
    return student


def _block(block: Block, small: Block, walks: list[Walk], stream: str, fit: Fit, changed: bool) -> bool:
    """Fit one block and move the walks past it; return whether anything has changed so far."""
    wide, narrow = [w.teacher for w in walks], [w.student for w in walks]
    inner_changed, stream_cut = changed, stream in fit.projections
    for layer, own in zip(block.convs[:-1], small.convs[:-1], strict=True):
        inner_changed = inner_changed or layer.place in fit.projections or _cuts(layer, fit)
        wide = [layer(x) for x in wide]
        if inner_changed:
            _fit(own, narrow, [fit.onto(layer.place, z) for z in wide], fit)
        narrow = [F.relu(own(x)) for x in narrow]
        wide = [F.relu(z) for z in wide]
    moved = inner_changed or stream_cut or _cuts(block.convs[-1], fit)
    if block.downsample is not None and small.downsample is not None:
        shortcuts = [block.downsample(w.teacher) for w in walks]
        starts = [w.student for w in walks]
        if changed or stream_cut or _cuts(small.downsample, fit):
            moved = True
            _fit(small.downsample, starts, [fit.onto(stream, z) for z in shortcuts], fit)
        held = [small.downsample(x) for x in starts]
    else:
        shortcuts, held = [w.teacher for w in walks], [w.student for w in walks]
    sums = [block.convs[-1](x) + s for x, s in zip(wide, shortcuts, strict=True)]
    if moved:
        targets = [fit.onto(stream, total) - h for total, h in zip(sums, held, strict=True)]
        _fit(small.convs[-1], narrow, targets, fit)
    for walk, total, x, h in zip(walks, sums, narrow, held, strict=True):
        walk.teacher, walk.student = F.relu(total), F.relu(small.convs[-1](x) + h)
    return moved


def _cuts(layer: Layer, fit: Fit) -> bool:
    """Return whether a layer gets a new factor."""
    return f"{layer.place}{FACTOR}" in fit.projections


def _fit(layer: Layer, inputs: list[Tensor], targets: list[Tensor], fit: Fit) -> None:
    """Set a convolution, or its two, and its norm to the least-squares map from the inputs' patches to the targets."""
    if layer.expand is None:
        fit_convolution(layer, inputs, targets, fit)
        return
    weight, bias, moments = least_squares(layer.conv, inputs, targets, fit)
    basis = factor_basis(layer, moments.covariance_of(weight.flatten(1)), fit.projections)
    written = moments.mean_targets() - bias  # the mean of what the factor drops goes into the norm's shift
    set_weight(layer, weight, basis)
    set_norm(layer.norm, bias + written - basis.T @ (basis @ written), map(layer.linear, inputs))


def _classifier(teacher: ResNet, student: ResNet, walks: list[Walk], ridge: float) -> None:
    """Set the classifier to the least-squares map from the student's pooled channels to the teacher's logits."""
    inputs = student.classifier.weight.shape[1]
    moments = CrossMoments(inputs, len(teacher.spec.labels))
    for walk in walks:
        moments.add(walk.student.mean((2, 3)), teacher.classifier(walk.teacher.mean((2, 3))))
    moments.all_reduce()
    weight, bias = moments.solve(ridge)
    student.classifier.weight.copy_(weight)
    student.classifier.bias.copy_(bias)
