"""Folding a ModernBERT: projections into weights, exactly, and back; and the start of a narrow one by algebra alone.

Every norm is over the narrow stream, so a projection in front of it is no approximation of the model that carries it:
fold and projected model are one function. How close that function is to the teacher's is what the start is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.base import ranks_from, raw_from
from rmtkd_edge.families.layers import folded_state, unfolded_state, with_state
from rmtkd_edge.families.modernbert.module import Linear, ModernBert

WORDS = "embeddings.word.weight"


def producers(model: ModernBert) -> dict[str, list[Linear]]:
    """Return, for every site, the linear layers whose output lives in it (the word table is not among them)."""
    sites = {"stream": [module for layer in model.layers for module in (layer.out, layer.down)]}
    for layer in model.layers:
        sites[f"{layer.name}.value"] = [layer.value]
        sites[f"{layer.name}.ffn"] = [layer.up, layer.gate]
    return {**sites, "pooler": [model.pooler]}


@torch.no_grad()
def fold(model: ModernBert) -> ModernBert:
    """Return the plain narrow model that `model` equals exactly: P W in place of W and P (dtype kept)."""
    state, p = folded_state(model), model.embeddings.projection
    if p is not None:
        state[WORDS] = state[WORDS] @ p.T
    return with_state(ModernBert(model.spec.with_projections({})), state, model)


@torch.no_grad()
def unfold(folded: ModernBert, projections: Mapping[str, Tensor]) -> ModernBert:
    """Return `folded` with the fixed projections put back after its producers: W becomes P^T W', since P P^T = I."""
    wide = ModernBert(folded.spec.with_projections(raw_from(folded.spec, projections)))
    state = unfolded_state(folded, wide, producers(wide), projections)
    if wide.embeddings.projection is not None:
        p = projections["stream"].to(next(folded.parameters()))
        state["embeddings.projection"], state[WORDS] = p, state[WORDS] @ p
    return with_state(wide, state, folded)


def projections(model: ModernBert) -> dict[str, Tensor]:
    """Return the fixed projections by site; all producers of a site share one."""
    found = {site: layers[0].projection for site, layers in producers(model).items() if layers}
    found["stream"] = model.embeddings.projection
    return {site: p for site, p in found.items() if p is not None}


def narrow_like(model: ModernBert, ranks: Mapping[str, int]) -> ModernBert:
    """Return an untrained folded model of the given ranks."""
    return ModernBert(model.spec.with_projections({}).with_ranks(ranks))


@torch.no_grad()
def plain_fold(teacher: ModernBert, projections: Mapping[str, Tensor]) -> ModernBert:
    """Return the narrow model by algebra alone: producers P W, consumers W G P^T, G the scale of the norm before them.

    A norm over k of d channels gives rows of norm sqrt(k) instead of sqrt(d), which its new scale makes up for; the
    word table takes its norm's scale, so that directions before the norm are those after the teacher's.
    """
    student = narrow_like(teacher, ranks_from(teacher.spec, projections))
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    like = next(teacher.parameters())
    if "stream" in projections:
        state[WORDS] = _normalised_words(teacher)
        cut_stream(state, projections["stream"].to(like))
    for site, p in projections.items():
        block, place = p.to(like), site.replace("layer.", "layers.").rpartition(".")[0]
        if site == "pooler":
            _cut(state, block, ["pooler"], "classifier")
            for name in [name for name in state if name.startswith("pooler_norm.")]:
                state[name] = (block**2 if name.endswith("weight") else block) @ state[name]
        elif site.endswith(".value"):
            _cut(state, block, [f"{place}.value"], f"{place}.out")
        elif site.endswith(".ffn"):
            _cut(state, block, [f"{place}.up", f"{place}.gate"], f"{place}.down")
    student.load_state_dict(state)
    return student.to(like.device).train(teacher.training)


def _normalised_words(teacher: ModernBert) -> Tensor:
    """Return the rows of the word table after their norm, where words of the stream begin."""
    return teacher.embeddings.norm(teacher.embeddings.word.weight)


def cut_stream(state: dict[str, Tensor], p: Tensor) -> None:
    """Cut the stream of a state in place; its word table has been normalised."""
    scale = (p.shape[1] / p.shape[0]) ** 0.5
    readers = {"norm1": ("query", "key", "value"), "norm2": ("up", "gate"), "norm": ("pooler",)}
    state[WORDS] = state[WORDS] @ p.T
    for name in [name for name in state if name.endswith(".weight")]:
        place, _, part = name.removesuffix(".weight").rpartition(".")
        before, bias = f"{place}." if place else "", f"{name.removesuffix('.weight')}.bias"
        if part in ("out", "down"):
            state[name] = p @ state[name]
            if bias in state:
                state[bias] = p @ state[bias]
        elif part in readers and place != "embeddings":
            for reader in (f"{before}{x}" for x in readers[part]):
                _into_reader(state, reader, state[name], state.get(bias), p)
            state[name] = torch.full_like(p[:, 0], scale)
            if bias in state:
                state[bias] = torch.zeros_like(p[:, 0])
    if "layers.0.norm1.weight" not in state:  # the first layer reads the embeddings as they are
        for reader in readers["norm1"]:
            state[f"layers.0.{reader}.weight"] = state[f"layers.0.{reader}.weight"] @ p.T
    state["embeddings.norm.weight"] = torch.full_like(p[:, 0], scale)
    if "embeddings.norm.bias" in state:
        state["embeddings.norm.bias"] = torch.zeros_like(p[:, 0])


def _into_reader(state: dict[str, Tensor], reader: str, gamma: Tensor, beta: Tensor | None, p: Tensor) -> None:
    """Let a layer read the projected plain norm, the norm's scale (and shift, where the layer has a bias) taken in."""
    weight = state[f"{reader}.weight"]
    if beta is not None and f"{reader}.bias" in state:
        state[f"{reader}.bias"] = state[f"{reader}.bias"] + weight @ beta
    state[f"{reader}.weight"] = (weight * gamma) @ p.T


def _cut(state: dict[str, Tensor], block: Tensor, names: Sequence[str], consumer: str) -> None:
    for name in names:
        for key in (f"{name}.weight", f"{name}.bias"):
            if key in state:
                state[key] = block @ state[key]
    state[f"{consumer}.weight"] = state[f"{consumer}.weight"] @ block.T


def plain(x: Tensor, eps: float) -> Tensor:
    """Return rows with mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)
