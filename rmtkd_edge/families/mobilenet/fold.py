"""Which layers make a site, and the start of a narrow net by algebra alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rmtkd_edge.families.convolution import ConvNorm, narrow_like, project_norm, projected_weight
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.mobilenet.module import MobileNet

Projections = Mapping[str, Tensor]


def producers(net: MobileNet) -> dict[str, list[nn.Module]]:
    """Return, for every site, the layers whose output lives in it."""
    made: dict[str, list[nn.Module]] = {"stream.0": [net.stem.conv]}
    for block in net.blocks:
        if block.expand is not None:
            made[f"{block.name}.inner"] = [block.expand.conv]
        if block.gates is not None:
            made[f"{block.name}.squeeze"] = [block.gates.reduce]
        made.setdefault(block.ends, []).append(block.project.conv)
    made["last"] = [net.last.conv]
    if net.hidden is not None:
        made["hidden"] = [net.hidden]
    return {site.name: made[site.name] for site in net.spec.sites()}


@torch.no_grad()
def plain_fold(teacher: MobileNet, projections: Projections) -> MobileNet:
    """Return the narrow net by algebra alone: P W P'^T, norms and depthwise convolutions by the diagonal of P . P^T."""
    student, like = narrow_like(teacher, projections), next(teacher.parameters())
    bases = {name: p.to(like) for name, p in projections.items()}
    _convolution(teacher.stem, student.stem, None, bases.get("stream.0"))
    for wide, own in zip(teacher.blocks, student.blocks, strict=True):
        before, inner, after = (bases.get(site) for site in (wide.begins, wide.inner, wide.ends))
        if wide.expand is not None and own.expand is not None:
            _convolution(wide.expand, own.expand, before, inner)
        _depthwise(wide.depthwise, own.depthwise, inner)
        if wide.gates is not None and own.gates is not None:
            squeeze = bases.get(f"{wide.name}.squeeze")
            fold_linear(wide.gates.reduce, own.gates.reduce, inner, squeeze)
            fold_linear(wide.gates.expand, own.gates.expand, squeeze, inner)
        _convolution(wide.project, own.project, inner, after)
    _convolution(teacher.last, student.last, bases.get(teacher.blocks[-1].ends), bases.get("last"))
    before = bases.get("last")
    if teacher.hidden is not None and student.hidden is not None:
        fold_linear(teacher.hidden, student.hidden, before, bases.get("hidden"))
        before = bases.get("hidden")
    fold_linear(teacher.classifier, student.classifier, before, None)
    return student.train(teacher.training)


def fold_linear(wide: ProjectedLinear, own: ProjectedLinear, before: Tensor | None, after: Tensor | None) -> None:
    """Set a linear layer to P W P'^T and P b, of the projections after and before it."""
    weight, bias = wide.folded()
    weight = weight if before is None else weight @ before.T
    own.weight.copy_(weight if after is None else after @ weight)
    own.bias.copy_(bias if after is None else after @ bias)


def _convolution(wide: ConvNorm, own: ConvNorm, before: Tensor | None, after: Tensor | None) -> None:
    own.conv.weight.copy_(projected_weight(wide.whole(), before, after))
    project_norm(wide.norm, own.norm, after)


def _depthwise(wide: ConvNorm, own: ConvNorm, p: Tensor | None) -> None:
    weight = wide.conv.weight
    own.conv.weight.copy_(weight if p is None else torch.einsum("kd,dihw->kihw", p**2, weight))
    project_norm(wide.norm, own.norm, p)
