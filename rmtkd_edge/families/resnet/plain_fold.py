"""Two starts of a narrowed ResNet without a fit, to measure the warm start against: folding alone, random weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.families.resnet.factors import factor_basis, set_weight
from rmtkd_edge.families.encoder.plain_fold import ranks_from
from rmtkd_edge.families.resnet.module import ConvNet, ConvNorm, narrow_like
from rmtkd_edge.families.resnet.sources import initialise


def fresh(teacher: ConvNet, projections: dict[str, Tensor], seed: int) -> ConvNet:
    """Return a net of the projections' ranks with random weights (torchvision's initialisation): plain distillation."""
    torch.manual_seed(seed)
    return initialise(narrow_like(teacher, ranks_from(teacher, projections)))


@torch.no_grad()
def plain_fold(teacher: ConvNet, projections: dict[str, Tensor]) -> ConvNet:
    """Return the narrow net by algebra alone: convolutions P W P'^T, norms by the diagonal of P . P^T."""
    student = narrow_like(teacher, ranks_from(teacher, projections)).to(next(teacher.parameters()))
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
    return student


def _fold(
    layer: ConvNorm, own: ConvNorm, before: Tensor | None, after: Tensor | None, projections: dict[str, Tensor]
) -> None:
    weight: Tensor = layer.whole()
    norm = layer.norm
    if before is not None:
        weight = torch.einsum("dihw,ki->dkhw", weight, before.to(weight))
    parts = {name: getattr(norm, name) for name in ("weight", "bias", "running_mean", "running_var")}
    if after is not None:
        p = after.to(weight)
        weight = torch.einsum("kd,dihw->kihw", p, weight)
        for name, value in parts.items():
            parts[name] = (p**2) @ value if name in ("weight", "running_var") else p @ value
    rows = weight.flatten(1)
    set_weight(own, weight, None if own.expand is None else factor_basis(own, rows @ rows.T, projections))
    for name, value in parts.items():
        getattr(own.norm, name).copy_(value)
