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
LEAST = 1e-3  # share of the mean scale under which a channel's own counts as none


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
    """Return the narrow model by algebra alone: producers P W, consumers W G P^T, G the scale of the norm before."""
    student = narrow_like(teacher, ranks_from(teacher.spec, projections))
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    like = next(teacher.parameters())
    if "stream" in projections:
        _cut_stream(teacher, state, projections["stream"].to(like))
    for site in projections.keys() - {"stream"}:
        block, place = projections[site].to(like), site.replace("layer.", "layers.").rpartition(".")[0]
        if site == "pooler":
            _cut(state, block, ["pooler"], "classifier")
            for name in [name for name in state if name.startswith("pooler_norm.")]:
                state[name] = (block**2 if name.endswith("weight") else block) @ state[name]
        elif site.endswith(".value"):
            _cut(state, block, [f"{place}.value"], f"{place}.out")
        else:
            _cut(state, block, [f"{place}.up", f"{place}.gate"], f"{place}.down")
    student.load_state_dict(state)
    return student.to(like.device).train(teacher.training)


def projected_words(teacher: ModernBert, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return a word table (V, k) and the scale (k,) of its norm that begin the stream where the teacher's does.

    The stream begins at G n, n the normalised word and G the norm's scale (and shift). With words P G n / g and the
    scale g, g the diagonal of P G P^T, a norm over k channels only changes each word's mean and size; P w in place of
    them would lose what G does to the axes.
    """
    norm = teacher.embeddings.norm
    g = p**2 @ norm.weight
    g = torch.where(g.abs() < LEAST * g.abs().mean(), g.abs().mean(), g)
    return (plain(teacher.embeddings.word.weight, norm.eps) * norm.weight) @ p.T / g, g


def _cut_stream(teacher: ModernBert, state: dict[str, Tensor], p: Tensor) -> None:
    """Cut the stream of a state in place.

    A norm over k of d channels gives rows of norm sqrt(k) instead of sqrt(d), which its new scale makes up for.
    """
    size = (p.shape[1] / p.shape[0]) ** 0.5
    state[WORDS], scale = projected_words(teacher, p)
    state["embeddings.norm.weight"] = size * scale
    if "embeddings.norm.bias" in state:
        state["embeddings.norm.bias"] = p @ state["embeddings.norm.bias"]
    _read_through(state, "norm", ["pooler"], p, size)
    for i, layer in enumerate(teacher.spec.layers):
        place = f"layers.{i}"
        for name in ("out", "down"):
            for key in [key for key in (f"{place}.{name}.weight", f"{place}.{name}.bias") if key in state]:
                state[key] = p @ state[key]
        readers = [f"{place}.{name}" for name in ("query", "key", "value")]
        if layer.normed:
            _read_through(state, f"{place}.norm1", readers, p, size)
        else:
            state.update({f"{name}.weight": state[f"{name}.weight"] @ p.T for name in readers})
        _read_through(state, f"{place}.norm2", [f"{place}.up", f"{place}.gate"], p, size)


def _read_through(state: dict[str, Tensor], norm: str, readers: Sequence[str], p: Tensor, size: float) -> None:
    """Let layers read the narrow stream through its plain norm: the wide norm's scale goes into their weights."""
    scale, shift = state[f"{norm}.weight"], state.get(f"{norm}.bias")
    for name in readers:
        state[f"{name}.weight"] = (state[f"{name}.weight"] * scale) @ p.T
    state[f"{norm}.weight"] = torch.full_like(p[:, 0], size)
    if shift is not None:
        state[f"{norm}.bias"] = p @ torch.where(scale == 0, 0.0, shift / scale)


def _cut(state: dict[str, Tensor], block: Tensor, names: Sequence[str], consumer: str) -> None:
    for name in names:
        for key in (f"{name}.weight", f"{name}.bias"):
            if key in state:
                state[key] = block @ state[key]
    state[f"{consumer}.weight"] = state[f"{consumer}.weight"] @ block.T


def plain(x: Tensor, eps: float) -> Tensor:
    """Return rows with mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)
