"""Which convolutions make a site, and the start of a narrow net by algebra alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rmtkd_edge.families.convolution import ProjectedConv, narrow_like, project_norm, projected_weight
from rmtkd_edge.families.resnet.factors import factor_basis, set_weight
from rmtkd_edge.families.resnet.module import Layer, ResNet
from rmtkd_edge.families.resnet.spec import FACTOR

Projections = Mapping[str, Tensor]


def producers(net: ResNet) -> dict[str, list[ProjectedConv]]:
    """Return, for every site that is there, the convolutions whose output lives in it."""
    layers = {module.place: module for module in net.modules() if isinstance(module, Layer)}
    sites: dict[str, list[ProjectedConv]] = {}
    for site in net.spec.sites():
        if site.kind == "factor":
            if not site.latent:
                sites[site.name] = [layers[site.name.removesuffix(FACTOR)].conv]
        else:
            sites[site.name] = [layers[place].last for place in net.spec.producers(site.name)]
    return sites


@torch.no_grad()
def plain_fold(teacher: ResNet, projections: Projections) -> ResNet:
    """Return the narrow net by algebra alone: convolutions P W P'^T, norms by the diagonal of P . P^T."""
    student = narrow_like(teacher, projections)
    first = projections.get("layer.1.stream" if teacher.spec.stem_is_shared else "stem")
    _fold(teacher.stem, student.stem, None, first, projections)
    before = first
    for i, (wide, narrow) in enumerate(zip(teacher.stages, student.stages, strict=True), 1):
        stream = projections.get(f"layer.{i}.stream")
        for block, small in zip(wide, narrow, strict=True):
            inner = before
            names = [f"{block.name}.conv{k}" for k in range(1, len(block.convs))]
            for layer, own, p in zip(block.convs, small.convs, [*map(projections.get, names), stream], strict=True):
                _fold(layer, own, inner, p, projections)
                inner = p
            if block.downsample is not None and small.downsample is not None:
                _fold(block.downsample, small.downsample, before, stream, projections)
            before = stream
    weight = teacher.classifier.weight
    student.classifier.weight.copy_(weight if before is None else weight @ before.to(weight).T)
    student.classifier.bias.copy_(teacher.classifier.bias)
    return student.train(teacher.training)


def _fold(layer: Layer, own: Layer, before: Tensor | None, after: Tensor | None, projections: Projections) -> None:
    weight = projected_weight(layer.whole(), before, after)
    rows = weight.flatten(1)
    set_weight(own, weight, None if own.expand is None else factor_basis(own, rows @ rows.T, projections))
    project_norm(layer.norm, own.norm, after)
