"""The perceptron in torch, and the closed form that a narrow one starts from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.base import Batches, Tap, ranks_from
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.model import Model
from rmtkd_edge.spectral import CrossMoments


class Mlp(Model):
    """Linear layers with a ReLU between them; `tap` sees what every hidden layer gives before its ReLU."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec
        pairs = enumerate(pairwise(spec.sizes))
        self.layers = nn.ModuleList(ProjectedLinear(*pair, spec.raw.get(f"hidden.{i}")) for i, pair in pairs)

    def forward(self, pixel_values: Tensor, tap: Tap = lambda name, value: None) -> Tensor:
        x = pixel_values.flatten(1)
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            tap(f"hidden.{i}", x)
            x = F.relu(x)
        return self.layers[-1](x)


def initialise(model: Mlp, seed: int) -> Mlp:
    generator = torch.Generator().manual_seed(seed)
    for layer in model.layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return model


@torch.no_grad()
def narrow(teacher: Mlp, projections: Mapping[str, Tensor], batches: Batches, ridge: float) -> Mlp:
    """Fit every layer by least squares on the narrow model's own inputs, from input to output."""
    student = Mlp(teacher.spec.with_ranks(ranks_from(teacher.spec, projections))).to(next(teacher.parameters()))
    wide = own = [batch["pixel_values"].to(next(teacher.parameters())).flatten(1) for batch in batches()]
    for i, (layer, small) in enumerate(zip(teacher.layers, student.layers, strict=True)):
        targets, p = [layer(x) for x in wide], projections.get(f"hidden.{i}")
        moments = CrossMoments(small.weight.shape[1], len(small.weight))
        for x, target in zip(own, targets, strict=True):
            moments.add(x, target if p is None else target @ p.to(target).T)
        moments.all_reduce()
        for parameter, value in zip((small.weight, small.bias), moments.solve(ridge), strict=True):
            parameter.copy_(value)
        wide, own = [F.relu(x) for x in targets], [F.relu(small(x)) for x in own]
    return student.eval()
