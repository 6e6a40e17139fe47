"""Which layers make a site, and the start of a narrow vision transformer by algebra alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rmtkd_edge.families.base import ranks_from
from rmtkd_edge.families.layers import along_outputs
from rmtkd_edge.families.vit.module import VisionTransformer


def producers(model: VisionTransformer) -> dict[str, list[nn.Module]]:
    """Return, for every site, the layers whose output lives in it; of the stream all whose sum it is."""
    first = [model.patches, *([] if model.tokens is None else [model.tokens]), model.positions]
    sites: dict[str, list[nn.Module]] = {"stream": [*first, *(m for x in model.layers for m in (x.out, x.down))]}
    for layer in model.layers:
        sites[f"{layer.name}.qk"] = [layer.query, layer.key]
        sites[f"{layer.name}.value"] = [layer.value]
        sites[f"{layer.name}.ffn"] = [layer.up]
    return sites


def narrow_like(model: VisionTransformer, ranks: Mapping[str, int]) -> VisionTransformer:
    """Return an untrained folded model of the given ranks (its weights are not set)."""
    return VisionTransformer(model.spec.with_projections({}).with_ranks(ranks))


@torch.no_grad()
def plain_fold(teacher: VisionTransformer, projections: Mapping[str, Tensor]) -> VisionTransformer:
    """Return the narrow model by algebra alone: producers P W, consumers W P^T, scales and shifts of norms in these."""
    student = narrow_like(teacher, ranks_from(teacher.spec, projections)).to(next(teacher.parameters()))
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    names = {id(module): name for name, module in teacher.named_modules()}
    if "stream" in projections:
        _cut_stream(teacher, state, projections["stream"].to(teacher.classifier.weight))
    for site, layers in producers(teacher).items():
        if site in projections:
            for layer in layers:
                for part, _ in layer.named_parameters(recurse=False):
                    name = f"{names[id(layer)]}.{part}"
                    state[name] = along_outputs(projections[site].to(state[name]), state[name])
    for i in range(len(teacher.layers)):
        for kind, consumer in (("value", "out"), ("ffn", "down")):
            p = projections.get(f"layer.{i}.{kind}")
            if p is not None:
                name = f"layers.{i}.{consumer}.weight"
                state[name] = state[name] @ p.to(state[name]).T
    student.load_state_dict(state)
    return student.train(teacher.training)


def _cut_stream(teacher: VisionTransformer, state: dict[str, Tensor], p: Tensor) -> None:
    """Narrow what reads the stream, in place: scale and shift of every norm go into the layers after it.

    One number is left to a norm: how much larger what it gives has to be, by the share of the producers' weights that
    the projection keeps.
    """
    weights = [layer.weight.flatten(1) for layer in producers(teacher)["stream"]]  # type: ignore[operator, union-attr]
    share = sum(float((p @ w).square().sum()) for w in weights) / sum(float(w.square().sum()) for w in weights)
    scale = (share * p.shape[1] / p.shape[0]) ** 0.5
    readers: list[tuple[str, Sequence[str]]] = [("norm", ["classifier"])]
    for i in range(len(teacher.layers)):
        attention = [f"layers.{i}.{part}" for part in ("query", "key", "value")]
        readers += [(f"layers.{i}.norm1", attention), (f"layers.{i}.norm2", [f"layers.{i}.up"])]
    for norm, consumers in readers:
        gamma, beta = state[f"{norm}.weight"], state[f"{norm}.bias"]
        for name in consumers:
            weight = state[f"{name}.weight"]
            state[f"{name}.bias"] = state[f"{name}.bias"] + weight @ beta
            state[f"{name}.weight"] = (weight * gamma) @ p.T
        state[f"{norm}.weight"] = gamma.new_full((len(p),), scale)
        state[f"{norm}.bias"] = gamma.new_zeros(len(p))
