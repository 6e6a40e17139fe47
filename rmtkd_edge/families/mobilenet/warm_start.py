"""Warm start of a narrowed MobileNet in closed form: every layer by least squares on the student's own inputs.

The student goes block by block over the calibration images, each layer towards what the teacher's gives there;
families/convolution_fit.py says how a layer is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.convolution import ConvNorm, narrow_like
from rmtkd_edge.families.convolution_fit import Fit, fitted_outputs, normalised
from rmtkd_edge.families.layers import ProjectedLinear, copy_fitting
from rmtkd_edge.families.map_sample import MapSample
from rmtkd_edge.families.mobilenet.depthwise import fit_depthwise
from rmtkd_edge.families.mobilenet.fold import Projections, fold_linear
from rmtkd_edge.families.mobilenet.module import Block, Gates, MobileNet
from rmtkd_edge.families.teacher_layers import LayerOutputs, TeacherLayers
from rmtkd_edge.spectral import CrossMoments

SCARCE = 0.1  # of a layer with one row an image: the ridge, times inputs by images


@torch.no_grad()
def warm_start(teacher: TeacherLayers[MobileNet], projections: Projections, *, ridge: float) -> MobileNet:
    """Return the folded narrow net for projections P (k x d) by site; sites left out stay wide."""
    wide = teacher.teacher
    student = narrow_like(wide, projections).eval()
    copy_fitting(wide, student)
    if not projections:  # the teacher's own weights are there
        return student
    like = next(wide.parameters())
    outputs, fit = teacher.outputs(), Fit(ridge, {name: p.to(like) for name, p in projections.items()})
    changed = "stream.0" in projections
    states = fitted_outputs(student.stem, teacher.images, "stream.0", next(outputs), fit, changed)
    states = [student.activation(z) for z in states]
    for theirs, own in zip(wide.blocks, student.blocks, strict=True):
        states, changed = _block(theirs, own, states, outputs, fit, changed)
    _head(wide, student, states, outputs, fit, changed)
    return student


def _block(
    wide: Block, own: Block, states: list[Tensor], outputs: LayerOutputs, fit: Fit, changed: bool
) -> tuple[list[Tensor], bool]:
    """Fit one block; return its states, and whether anything has changed so far."""
    inner, changed = states, changed or wide.inner in fit.projections
    if own.expand is not None:
        maps = fitted_outputs(own.expand, inner, wide.inner, next(outputs), fit, changed)
        inner = [own.activation(z) for z in maps]
    targets = fit.targets(wide.inner, next(outputs))
    maps = _fit_depthwise(own.depthwise, inner, targets, fit) if changed else [own.depthwise(x) for x in inner]
    inner = [own.activation(z) for z in maps]
    if wide.gates is not None and own.gates is not None:
        site, squeezed = f"{wide.name}.squeeze", next(outputs)
        changed = changed or site in fit.projections
        if changed:
            _fit_gates(wide.gates, own.gates, inner, squeezed, fit, (wide.inner, site))
        inner = [x * own.gates.opened(own.gates.squeezed(x)) for x in inner]
    changed = changed or wide.ends in fit.projections
    held = states if own.skip else None
    added = fitted_outputs(own.project, inner, wide.ends, next(outputs), fit, changed, held)
    return ([z + x for z, x in zip(added, states, strict=True)] if own.skip else added), changed


def _fit_gates(
    wide: Gates,
    own: Gates,
    inner: Sequence[Tensor],
    squeezed: Sequence[MapSample],
    fit: Fit,
    sites: tuple[str, str],
) -> None:
    """Fit gates on the student's states, towards what the teacher's give for its squeezed means."""
    before, middle = (fit.projections.get(site) for site in sites)
    fold_linear(wide.reduce, own.reduce, before, middle)
    fold_linear(wide.expand, own.expand, middle, before)
    means = [x.mean((2, 3)) for x in inner]
    _correct(own.reduce, means, [fit.onto(sites[1], z.values) for z in squeezed], fit)
    reduced = [F.relu(own.reduce(x)) for x in means]
    _correct(own.expand, reduced, [fit.onto(sites[0], wide.expand(F.relu(z.values))) for z in squeezed], fit)


def _head(
    wide: MobileNet, own: MobileNet, states: list[Tensor], outputs: LayerOutputs, fit: Fit, changed: bool
) -> None:
    """Fit what comes after the blocks."""
    changed = changed or "last" in fit.projections
    maps = fitted_outputs(own.last, states, "last", next(outputs), fit, changed)
    means, before = [own.activation(z).mean((2, 3)) for z in maps], fit.projections.get("last")
    if wide.hidden is not None and own.hidden is not None:
        hidden, changed = next(outputs), changed or "hidden" in fit.projections
        if changed:
            fold_linear(wide.hidden, own.hidden, before, fit.projections.get("hidden"))
            _correct(own.hidden, means, [fit.onto("hidden", z.values) for z in hidden], fit)
        means, before = [own.activation(own.hidden(x)) for x in means], fit.projections.get("hidden")
    if changed:
        fold_linear(wide.classifier, own.classifier, before, None)
        _correct(own.classifier, means, [z.values for z in next(outputs)], fit)


def _fit_depthwise(layer: ConvNorm, inputs: Sequence[Tensor], targets: Sequence[MapSample], fit: Fit) -> list[Tensor]:
    """Set a depthwise convolution and its norm to the least-squares map of every channel by itself.

    Returns:
        What the layer gives now for every input.
    """
    weight, bias = fit_depthwise(layer.conv, zip(inputs, targets, strict=True), fit.ridge)
    layer.conv.weight.copy_(weight)
    return normalised(layer, bias, inputs)


def _correct(layer: ProjectedLinear, inputs: Sequence[Tensor], targets: Sequence[Tensor], fit: Fit) -> None:
    """Add to a linear layer the least-squares map from its inputs (n, in) to what its outputs lack of the targets.

    There is one row an image: where images are few for the inputs, a larger ridge keeps more of what is there.
    """
    moments = CrossMoments(layer.weight.shape[1], len(layer.weight))
    for x, target in zip(inputs, targets, strict=True):
        moments.add(x, target - layer(x))
    moments.all_reduce()
    weight, bias = moments.solve(max(fit.ridge, SCARCE * layer.weight.shape[1] / moments.count))
    layer.weight.add_(weight.to(layer.weight))
    layer.bias.add_(bias.to(layer.bias))
