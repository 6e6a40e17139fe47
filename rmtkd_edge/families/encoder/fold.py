"""Folding an encoder: projections into weights, exactly, and back; and the start of a narrow one by algebra alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rmtkd_edge.families.base import ranks_from, raw_from
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.layers import ProjectedLinear, folded_state, unfolded_state, with_state

DISTANCES = "relative.embeddings.weight"
READERS = ("query", "key", "distance_query", "distance_key", "value", "up", "pooler")  # of the stream


def producers(encoder: Encoder) -> dict[str, list[ProjectedLinear]]:
    """Return, for every site, the linear layers whose output lives in it (embedding tables are not among them)."""
    stream = [module for layer in encoder.layers for module in (layer.out, layer.down)]
    if encoder.embeddings.project is not None:
        stream.insert(0, encoder.embeddings.project)
    sites = {"stream": stream}
    if encoder.pooler is not None:
        sites["pooler"] = [encoder.pooler]
    for layer in encoder.layers:
        own = [module for module in (layer.distance_query, layer.distance_key) if module is not None]
        sites[f"{layer.name}.qk"] = [layer.query, layer.key, *own]
        sites[f"{layer.name}.value"] = [layer.value]
        sites[f"{layer.name}.ffn"] = [layer.up]
    return sites


@torch.no_grad()
def fold(encoder: Encoder) -> Encoder:
    """Return the plain narrow model that `encoder` equals exactly: P W in place of W and P (dtype kept)."""
    state = folded_state(encoder)
    projection, table = encoder.embeddings.projection, encoder.embeddings.table_projection
    state.pop("embeddings.table_projection", None)
    if table is not None:
        state["embeddings.word.weight"] = state["embeddings.word.weight"] @ table.T
    if projection is not None:
        for name in _into_sum(state):
            weight = state[name]
            state[name] = projection @ weight if "expand" in name else weight @ projection.T
    distances = getattr(encoder.relative, "projection", None)
    if distances is not None:
        state[DISTANCES] = state[DISTANCES] @ distances.T
    return with_state(Encoder(encoder.spec.with_projections({})), state, encoder)


def _into_sum(state: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors whose output is added up before the embeddings' norm."""
    table = ("expand.weight", "expand.bias") if "embeddings.expand.weight" in state else ("word.weight",)
    names = [f"embeddings.{part}" for part in (*table, "position.weight", "token_type.weight")]
    return [name for name in names if name in state]


@torch.no_grad()
def unfold(folded: Encoder, projections: Mapping[str, Tensor]) -> Encoder:
    """Return `folded` with the fixed projections put back after its producers: W becomes P^T W', since P P^T = I.

    `projections` holds, by site, P (k x d); for qk and value sites the block-diagonal one over all heads.
    """
    wide = Encoder(folded.spec.with_projections(raw_from(folded.spec, projections)))
    state = unfolded_state(folded, wide, producers(wide), projections)
    if wide.embeddings.projection is not None:
        p = projections["stream"].to(next(folded.parameters()))
        state["embeddings.projection"] = p
        for name in _into_sum(state):
            state[name] = p.T @ state[name] if "expand" in name else state[name] @ p
    if DISTANCES in state and "stream" in projections:
        p = projections["stream"].to(next(folded.parameters()))
        state["relative.projection"], state[DISTANCES] = p, state[DISTANCES] @ p
    if wide.embeddings.table_projection is not None:
        p = projections["embedding"].to(next(folded.parameters()))
        state["embeddings.table_projection"] = p
        state["embeddings.word.weight"] = state["embeddings.word.weight"] @ p
    return with_state(wide, state, folded)


def embedding_projections(encoder: Encoder) -> dict[str, Tensor]:
    """Return the fixed projections that follow embedding tables, by site."""
    found = {"stream": encoder.embeddings.projection, "embedding": encoder.embeddings.table_projection}
    return {site: p for site, p in found.items() if p is not None}


def narrow_like(encoder: Encoder, ranks: Mapping[str, int]) -> Encoder:
    """Return an untrained folded encoder of the given ranks (its weights are not set)."""
    return Encoder(encoder.spec.with_projections({}).with_ranks(ranks))


@torch.no_grad()
def plain_fold(teacher: Encoder, projections: Mapping[str, Tensor]) -> Encoder:
    """Return the narrow encoder by algebra alone: producers P W, consumers W P^T, norms by the diagonal of P . P^T."""
    student = narrow_like(teacher, ranks_from(teacher.spec, projections))
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    if teacher.classifier is None and student.classifier is not None:  # the map back to the embedding's width
        like = next(teacher.parameters())
        width = teacher.spec.width
        state["classifier.weight"], state["classifier.bias"] = torch.eye(width).to(like), torch.zeros(width).to(like)
    if teacher.embeddings.expand is not None and student.embeddings.expand is None:  # wider than the stream now
        state["embeddings.word.weight"] = teacher.embeddings.expand(teacher.embeddings.word.weight)
        del state["embeddings.expand.weight"], state["embeddings.expand.bias"]
    elif "embedding" in projections and student.embeddings.expand is not None:
        _cut_table(state, projections["embedding"].to(next(teacher.parameters())))
    if "stream" in projections:
        p = projections["stream"].to(next(teacher.parameters()))
        _cut_stream(state, p, teacher.embeddings.project is not None)
        if teacher.pooler is None:
            state["classifier.weight"] = state["classifier.weight"] @ p.T
    for i in range(len(teacher.layers)):
        for kind, outputs, consumer in (
            ("qk", ("query", "key", "distance_query", "distance_key"), None),
            ("value", ("value",), "out"),
            ("ffn", ("up",), "down"),
        ):
            block = projections.get(f"layer.{i}.{kind}")
            if block is not None:
                names = [f"layers.{i}.{name}" for name in outputs if f"layers.{i}.{name}.weight" in state]
                _cut(state, block, names, f"layers.{i}.{consumer}" if consumer else None)
    if "pooler" in projections:
        _cut(state, projections["pooler"], ["pooler"], "classifier")
    student.load_state_dict(state)
    return student


def _cut(state: dict[str, Tensor], block: Tensor, producers: list[str], consumer: str | None) -> None:
    p = block.to(state[f"{producers[0]}.weight"])
    for name in producers:
        state[f"{name}.weight"], state[f"{name}.bias"] = p @ state[f"{name}.weight"], p @ state[f"{name}.bias"]
    if consumer is not None:
        state[f"{consumer}.weight"] = state[f"{consumer}.weight"] @ p.T


def _cut_table(state: dict[str, Tensor], p: Tensor) -> None:
    state["embeddings.word.weight"] = state["embeddings.word.weight"] @ p.T
    before = state.get("embeddings.expand.weight")
    state["embeddings.expand.weight"] = p.T.clone() if before is None else before @ p.T
    state.setdefault("embeddings.expand.bias", torch.zeros_like(p[0]))


def _cut_stream(state: dict[str, Tensor], p: Tensor, factorised: bool) -> None:
    for name in list(state):
        part = name.split(".")[-2]
        if name == DISTANCES:
            state[name] = state[name] @ p.T
        elif name.startswith("embeddings."):
            if (factorised and part == "project") or (not factorised and part == "expand"):
                state[name] = p @ state[name]
            elif part == "word" and "embeddings.expand.weight" in state:
                continue
            elif not factorised and part != "norm":
                state[name] = state[name] @ p.T
            elif not factorised:
                state[name] = _norm(name, state[name], p)
        elif part in ("norm1", "norm2"):
            state[name] = _norm(name, state[name], p)
        elif part in ("out", "down"):
            state[name] = p @ state[name]
        elif part in READERS and name.endswith("weight"):
            state[name] = state[name] @ p.T


def _norm(name: str, value: Tensor, p: Tensor) -> Tensor:
    return (p**2) @ value if name.endswith("weight") else p @ value
