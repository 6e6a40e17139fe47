"""Warm start of a narrowed MobileNet in closed form: every layer by least squares on the student's own inputs.

Teacher and student walk block by block over the calibration images; families/convolution_fit.py says how a layer is
fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.convolution import ConvNorm, narrow_like, set_norm
from rmtkd_edge.families.convolution_fit import Fit, fit_convolution
from rmtkd_edge.families.layers import ProjectedLinear, copy_fitting
from rmtkd_edge.families.mobilenet.depthwise import fit_depthwise
from rmtkd_edge.families.mobilenet.fold import Projections, fold_linear
from rmtkd_edge.families.mobilenet.module import Block, Gates, MobileNet
from rmtkd_edge.families.walk import Walk
from rmtkd_edge.spectral import CrossMoments

DEPTHWISE_ROWS = 400  # places of all images together, for each of a depthwise kernel's taps
SCARCE = 0.1  # of a layer with one row an image: the ridge, times inputs by images


@torch.no_grad()
def warm_start(
    teacher: MobileNet, projections: Projections, batches: Iterable[Mapping[str, Tensor]], *, ridge: float, seed: int
) -> MobileNet:
    """Return the folded narrow net for projections P (k x d) by site; sites left out stay wide. `teacher` is folded."""
    teacher.eval()
    like = next(teacher.parameters())
    student = narrow_like(teacher, projections).eval()
    copy_fitting(teacher, student)
    if not projections:  # the teacher's own weights are there
        return student
    images = [batch["pixel_values"].to(like) for batch in batches]
    fit = Fit(ridge, len(images), seed, {name: p.to(like) for name, p in projections.items()})
    sums = [teacher.stem(x) for x in images]
    changed = "stream.0" in projections
    if changed:
        fit_convolution(student.stem, images, [fit.onto("stream.0", z) for z in sums], fit)
    act = teacher.activation
    walks = [Walk(act(z), act(student.stem(x))) for x, z in zip(images, sums, strict=True)]
    del images, sums
    for wide, own in zip(teacher.blocks, student.blocks, strict=True):
        changed = _block(wide, own, walks, fit, changed)
    _head(teacher, student, walks, fit, changed)
    return student


def _block(wide: Block, own: Block, walks: list[Walk], fit: Fit, changed: bool) -> bool:
    """Fit one block and move the walks past it; return whether anything has changed so far."""
    theirs, ours = [w.teacher for w in walks], [w.student for w in walks]
    changed = changed or wide.inner in fit.projections
    if wide.expand is not None and own.expand is not None:
        theirs = [wide.expand(x) for x in theirs]
        if changed:
            fit_convolution(own.expand, ours, [fit.onto(wide.inner, z) for z in theirs], fit)
        theirs, ours = [wide.activation(z) for z in theirs], [own.activation(own.expand(x)) for x in ours]
    theirs = [wide.depthwise(x) for x in theirs]
    if changed:
        _fit_depthwise(own.depthwise, ours, [fit.onto(wide.inner, z) for z in theirs], fit)
    theirs, ours = [wide.activation(z) for z in theirs], [own.activation(own.depthwise(x)) for x in ours]
    if wide.gates is not None and own.gates is not None:
        changed = _gate(wide, own, theirs, ours, fit, changed)
    changed = changed or wide.ends in fit.projections
    for walk, x in zip(walks, theirs, strict=True):
        walk.teacher = wide.project(x) + walk.teacher if wide.skip else wide.project(x)
    if changed:
        targets = [fit.onto(wide.ends, w.teacher) - (w.student if wide.skip else 0.0) for w in walks]
        fit_convolution(own.project, ours, targets, fit)
    for walk, x in zip(walks, ours, strict=True):
        walk.student = own.project(x) + walk.student if wide.skip else own.project(x)
    return changed


def _gate(wide: Block, own: Block, theirs: list[Tensor], ours: list[Tensor], fit: Fit, changed: bool) -> bool:
    """Fit the gates and apply them to both nets' states, in place; return whether anything has changed so far."""
    gates, mine = wide.gates, own.gates
    assert gates is not None and mine is not None, "both blocks have gates"
    site = f"{wide.name}.squeeze"
    changed = changed or site in fit.projections
    wanted = [gates.squeezed(x) for x in theirs]
    if changed:
        _fit_gates(gates, mine, (theirs, ours), fit, (wide.inner, site))
    for number, (x, y, z) in enumerate(zip(theirs, ours, wanted, strict=True)):
        theirs[number], ours[number] = x * gates.opened(z), y * mine.opened(mine.squeezed(y))
    return changed


def _fit_gates(
    wide: Gates, own: Gates, states: tuple[list[Tensor], list[Tensor]], fit: Fit, sites: tuple[str, str]
) -> None:
    inner, squeeze = sites
    before, middle = (fit.projections.get(site) for site in sites)
    fold_linear(wide.reduce, own.reduce, before, middle)
    fold_linear(wide.expand, own.expand, middle, before)
    wanted = [wide.squeezed(x) for x in states[0]]
    means = [x.mean((2, 3)) for x in states[1]]
    _correct(own.reduce, means, [fit.onto(squeeze, z) for z in wanted], fit)
    reduced = [F.relu(own.reduce(x)) for x in means]
    _correct(own.expand, reduced, [fit.onto(inner, wide.expand(F.relu(z))) for z in wanted], fit)


def _head(teacher: MobileNet, student: MobileNet, walks: list[Walk], fit: Fit, changed: bool) -> None:
    """Fit what comes after the blocks."""
    act = teacher.activation
    changed = changed or "last" in fit.projections
    theirs = [teacher.last(w.teacher) for w in walks]
    if changed:
        targets = [fit.onto("last", z) for z in theirs]
        fit_convolution(student.last, [w.student for w in walks], targets, fit)
    wide = [act(z).mean((2, 3)) for z in theirs]
    own = [act(student.last(w.student)).mean((2, 3)) for w in walks]
    before = fit.projections.get("last")
    if teacher.hidden is not None and student.hidden is not None:
        changed = changed or "hidden" in fit.projections
        wide = [teacher.hidden(x) for x in wide]
        if changed:
            fold_linear(teacher.hidden, student.hidden, before, fit.projections.get("hidden"))
            _correct(student.hidden, own, [fit.onto("hidden", z) for z in wide], fit)
        wide, own = [act(z) for z in wide], [act(student.hidden(x)) for x in own]
        before = fit.projections.get("hidden")
    if changed:
        fold_linear(teacher.classifier, student.classifier, before, None)
        _correct(student.classifier, own, [teacher.classifier(x) for x in wide], fit)


def _fit_depthwise(layer: ConvNorm, inputs: list[Tensor], targets: list[Tensor], fit: Fit) -> None:
    """Set a depthwise convolution and its norm to the least-squares map of every channel by itself."""
    count = fit.places(layer.conv.weight[0].numel(), DEPTHWISE_ROWS)
    weight, bias = fit_depthwise(layer.conv, zip(inputs, targets, strict=True), count, fit.ridge, fit.seed)
    layer.conv.weight.copy_(weight)
    set_norm(layer.norm, bias, (layer.conv(x) for x in inputs))


def _correct(layer: ProjectedLinear, inputs: list[Tensor], targets: list[Tensor], fit: Fit) -> None:
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
