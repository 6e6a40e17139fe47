"""Warm start of a narrowed ResNet in closed form: every convolution by least squares on the student's own patches.

Teacher and student walk block by block over the calibration images. A convolution's target is the teacher's normalised
output, projected; of a block's last one, minus what the student's own shortcut already holds, so that errors are
corrected instead of stacked. The norm after it takes the student's own moments and gives the fit back exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.base import ranks_from
from rmtkd_edge.families.convolution import patches, set_norm
from rmtkd_edge.families.layers import copy_fitting
from rmtkd_edge.families.resnet.factors import factor_basis, set_weight
from rmtkd_edge.families.resnet.fold import narrow_like
from rmtkd_edge.families.resnet.module import Block, ConvNorm, ResNet
from rmtkd_edge.families.resnet.spec import FACTOR
from rmtkd_edge.spectral import CrossMoments

ROWS_PER_FEATURE = 12  # patches that a least-squares fit looks at, for each of its inputs


@dataclass
class Walk:
    """One calibration batch on its way: teacher's and student's states (B, channels, H, W) after the ReLU."""

    teacher: Tensor
    student: Tensor


@dataclass(frozen=True)
class Fit:
    """How convolutions are fitted: ridge, how many batches share the patches, the seed that picks them; projections."""

    ridge: float
    batches: int
    seed: int
    projections: Mapping[str, Tensor]

    def cuts(self, layer: ConvNorm) -> bool:
        """Return whether a layer gets a new factor."""
        return f"{layer.place}{FACTOR}" in self.projections


@torch.no_grad()
def warm_start(
    teacher: ResNet,
    projections: Mapping[str, Tensor],
    batches: Iterable[Mapping[str, Tensor]],
    *,
    ridge: float,
    seed: int,
) -> ResNet:
    """Return the folded narrow net for projections P (k x d) by site; sites left out stay wide. `teacher` is folded."""
    teacher.eval()
    student = narrow_like(teacher, ranks_from(teacher.spec, projections)).to(next(teacher.parameters())).eval()
    copy_fitting(teacher, student)
    images = [batch["pixel_values"].to(next(teacher.parameters())) for batch in batches]
    fit = Fit(ridge, len(images), seed, projections)
    first = "layer.1.stream" if teacher.spec.stem_is_shared else "stem"
    p = _projection(projections.get(first), teacher.stem)
    sums = [teacher.stem(x) for x in images]
    changed = first in projections or fit.cuts(student.stem)
    _fit(student.stem, images, [_project(total, p) for total in sums], fit, changed)
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
    p = _projection(fit.projections.get(stream), block.convs[-1])
    inner_changed = changed
    for layer, own in zip(block.convs[:-1], small.convs[:-1], strict=True):
        q = _projection(fit.projections.get(layer.place), layer)
        inner_changed = inner_changed or q is not None or fit.cuts(layer)
        wide = [layer(x) for x in wide]
        _fit(own, narrow, [_project(z, q) for z in wide], fit, inner_changed)
        narrow = [F.relu(own(x)) for x in narrow]
        wide = [F.relu(z) for z in wide]
    moved = inner_changed or changed or p is not None or fit.cuts(block.convs[-1])
    if block.downsample is not None and small.downsample is not None:
        shortcuts = [block.downsample(w.teacher) for w in walks]
        starts = [w.student for w in walks]
        shortcut_changed = changed or p is not None or fit.cuts(small.downsample)
        moved = moved or shortcut_changed
        _fit(small.downsample, starts, [_project(z, p) for z in shortcuts], fit, shortcut_changed)
        held = [small.downsample(x) for x in starts]
    else:
        shortcuts, held = [w.teacher for w in walks], [w.student for w in walks]
    sums = [block.convs[-1](x) + s for x, s in zip(wide, shortcuts, strict=True)]
    targets = [_project(total, p) - h for total, h in zip(sums, held, strict=True)]
    _fit(small.convs[-1], narrow, targets, fit, moved)
    for walk, total, x, h in zip(walks, sums, narrow, held, strict=True):
        walk.teacher, walk.student = F.relu(total), F.relu(small.convs[-1](x) + h)
    return moved


def _projection(p: Tensor | None, layer: ConvNorm) -> Tensor | None:
    """Return a projection in the dtype of a layer's weights."""
    return None if p is None else p.to(layer.conv.weight)


def _project(z: Tensor, p: Tensor | None) -> Tensor:
    """Return (B, k, H, W) for (B, d, H, W)."""
    return z if p is None else torch.einsum("kd,bdhw->bkhw", p, z)


def _fit(layer: ConvNorm, inputs: list[Tensor], targets: list[Tensor], fit: Fit, changed: bool) -> None:
    """Set a convolution and its norm to the least-squares map from the inputs' patches to the targets."""
    if not changed:  # nothing before or after it was cut: the teacher's own weights are there
        return
    if layer.conv.groups > 1:
        _fit_groups(layer, inputs, targets, fit)
        return
    outputs = len(layer.last.weight)
    _, channels, height, width = layer.conv.weight.shape
    moments = CrossMoments(channels * height * width, outputs)
    wanted = ROWS_PER_FEATURE * channels * height * width
    for number, (x, target) in enumerate(zip(inputs, targets, strict=True)):
        a, b = patches(layer.conv, x, target, -(-wanted // fit.batches), fit.seed + number)
        moments.add(a, b)
    moments.all_reduce()
    weight, bias = moments.solve(fit.ridge)
    basis = None
    if layer.expand is not None:  # the mean of what the factor drops goes into the norm's shift
        basis = factor_basis(layer, moments.covariance_of(weight), fit.projections)
        written = moments.mean_targets() - bias
        bias = bias + written - basis.T @ (basis @ written)
    set_weight(layer, weight.reshape(outputs, channels, height, width), basis)
    set_norm(layer.norm, bias, (layer.linear(x) for x in inputs))


def _fit_groups(layer: ConvNorm, inputs: list[Tensor], targets: list[Tensor], fit: Fit) -> None:
    """Set a grouped convolution and its norm to the least-squares maps of its groups, each by itself."""
    conv = layer.conv
    features, outputs = conv.weight[0].numel(), len(conv.weight) // conv.groups
    weights, biases = [], []
    for group in range(conv.groups):
        moments = CrossMoments(features, outputs)
        for number, (x, target) in enumerate(zip(inputs, targets, strict=True)):
            mine = (x.chunk(conv.groups, 1)[group], target.chunk(conv.groups, 1)[group])
            moments.add(*patches(conv, *mine, -(-ROWS_PER_FEATURE * features // fit.batches), fit.seed + number))
        moments.all_reduce()
        weight, bias = moments.solve(fit.ridge)
        weights.append(weight)
        biases.append(bias)
    conv.weight.copy_(torch.cat(weights).reshape(conv.weight.shape))
    set_norm(layer.norm, torch.cat(biases), (layer.linear(x) for x in inputs))


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
