"""Two starts without a fit, to measure the warm start against: P W and W P^T alone, and random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmtkd_edge.families.encoder.module import Encoder, ProjectedLinear, narrow_like
from rmtkd_edge.families.ops import Model
from rmtkd_edge.families.encoder.spec import list_sites

INITIAL_STD = 0.02  # of BERT's weights


def ranks_from(teacher: Model, projections: dict[str, Tensor]) -> dict[str, int]:
    """Return the rank (of a head) that each projection leaves."""
    return {s.name: len(projections[s.name]) // s.heads for s in list_sites(teacher.spec) if s.name in projections}


def fresh(teacher: Encoder, projections: dict[str, Tensor], seed: int) -> Encoder:
    """Return a student of the projections' ranks with random weights (BERT's initialisation): plain distillation."""
    torch.manual_seed(seed)
    student = narrow_like(teacher, ranks_from(teacher, projections))
    for module in student.modules():
        if isinstance(module, ProjectedLinear | nn.Embedding):
            nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, ProjectedLinear):
                nn.init.zeros_(module.bias)
    return student


@torch.no_grad()
def plain_fold(teacher: Encoder, projections: dict[str, Tensor]) -> Encoder:
    """Return the narrow encoder by algebra alone: producers P W, consumers W P^T, norms by the diagonal of P . P^T."""
    student = narrow_like(teacher, ranks_from(teacher, projections))
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    if teacher.embeddings.expand is not None and student.embeddings.expand is None:  # wider than the stream now
        state["embeddings.word.weight"] = teacher.embeddings.expand(teacher.embeddings.word.weight)
        del state["embeddings.expand.weight"], state["embeddings.expand.bias"]
    elif "words" in projections and student.embeddings.expand is not None:
        _cut_words(state, projections["words"].to(next(teacher.parameters())))
    if "stream" in projections:
        _cut_stream(state, projections["stream"].to(next(teacher.parameters())), teacher.embeddings.project is not None)
    for i in range(len(teacher.layers)):
        for kind, outputs, consumer in (
            ("qk", ("query", "key"), None),
            ("value", ("value",), "out"),
            ("ffn", ("up",), "down"),
        ):
            block = projections.get(f"layer.{i}.{kind}")
            if block is not None:
                names = [f"layers.{i}.{name}" for name in outputs]
                _cut(state, block, names, f"layers.{i}.{consumer}" if consumer else None)
    if "head" in projections:
        _cut(state, projections["head"], ["head"], "classifier")
    student.load_state_dict(state)
    return student


def _cut(state: dict[str, Tensor], block: Tensor, producers: list[str], consumer: str | None) -> None:
    p = block.to(state[f"{producers[0]}.weight"])
    for name in producers:
        state[f"{name}.weight"], state[f"{name}.bias"] = p @ state[f"{name}.weight"], p @ state[f"{name}.bias"]
    if consumer is not None:
        state[f"{consumer}.weight"] = state[f"{consumer}.weight"] @ p.T


def _cut_words(state: dict[str, Tensor], p: Tensor) -> None:
    state["embeddings.word.weight"] = state["embeddings.word.weight"] @ p.T
    before = state.get("embeddings.expand.weight")
    state["embeddings.expand.weight"] = p.T.clone() if before is None else before @ p.T
    state.setdefault("embeddings.expand.bias", torch.zeros_like(p[0]))


def _cut_stream(state: dict[str, Tensor], p: Tensor, factorised: bool) -> None:
    for name in list(state):
        part = name.split(".")[-2]
        if name.startswith("embeddings."):
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
        elif part in ("query", "key", "value", "up", "head") and name.endswith("weight"):
            state[name] = state[name] @ p.T


def _norm(name: str, value: Tensor, p: Tensor) -> Tensor:
    return (p**2) @ value if name.endswith("weight") else p @ value
