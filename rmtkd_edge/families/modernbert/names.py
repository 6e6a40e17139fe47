"""What transformers calls a ModernBERT classifier and its parts: from its config to a shape, and names of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.activations import plain_name
from rmtkd_edge.families.modernbert.spec import MODEL_TYPE, LayerSpec, ModernBertSpec

if TYPE_CHECKING:
    from torch import Tensor

GLOBAL, LOCAL = "full_attention", "sliding_attention"
HEAD, CLASSIFIER = "head", "classifier"
_LAYER = {
    "norm1": "attn_norm",
    "out": "attn.Wo",
    "norm2": "mlp_norm",
    "down": "mlp.Wo",
}
_JOINED = {"attn.Wqkv": ("query", "key", "value"), "mlp.Wi": ("up", "gate")}  # one layer of theirs, several of ours


def spec_from_config(config: Any, labels: Sequence[str]) -> ModernBertSpec:
    """Return the shape that a transformers config describes; raise UserError for another type, or another RoPE."""
    if config.model_type != MODEL_TYPE:
        raise UserError(
            f"model type `{config.model_type}` is not supported by the family `{MODEL_TYPE}`",
            'leave model.family out for BERT-like encoders, or give a checkpoint of model_type "modernbert"',
        )
    width, heads = config.hidden_size, config.num_attention_heads
    if heads < 1 or width % heads or width // heads % 2:
        raise UserError(f"a width of {width} cannot be shared by {heads} heads", "check the model's config.json")
    rope = {kind: config.rope_parameters[kind] for kind in (GLOBAL, LOCAL)}
    odd = [kind for kind, found in rope.items() if found.get("rope_type", "default") != "default"]
    if odd:
        raise UserError(
            f"rotary positions of type {rope[odd[0]]['rope_type']} are not supported", "use a checkpoint without it"
        )
    head = width // heads
    layers = (
        LayerSpec(heads, head, head, config.intermediate_size, kind == LOCAL, i > 0)
        for i, kind in enumerate(config.layer_types)
    )
    activations = (config.hidden_activation, config.classifier_activation)
    activation, pooler_activation = (plain_name(name) for name in activations)
    return ModernBertSpec(
        vocab=config.vocab_size,
        positions=config.max_position_embeddings,
        width=width,
        layers=tuple(layers),
        pooler_width=width,
        labels=tuple(labels),
        window=config.local_attention // 2,
        global_theta=float(rope[GLOBAL]["rope_theta"]),
        local_theta=float(rope[LOCAL]["rope_theta"]),
        pooling=config.classifier_pooling,
        activation=activation,
        pooler_activation=pooler_activation,
        eps=config.norm_eps,
        pad_id=config.pad_token_id if config.pad_token_id is not None else 0,
        dropout=float(config.mlp_dropout),
        attention_bias=config.attention_bias,
        ffn_bias=config.mlp_bias,
        norm_bias=config.norm_bias,
        pooler_bias=config.classifier_bias,
    )


def names_from_transformers(spec: ModernBertSpec) -> dict[str, tuple[str, ...]]:
    """Return, for each of transformers' modules, those of ours whose outputs it gives, in their order."""
    names: dict[str, tuple[str, ...]] = {
        "model.embeddings.tok_embeddings": ("embeddings.word",),
        "model.embeddings.norm": ("embeddings.norm",),
        "model.final_norm": ("norm",),
        f"{HEAD}.dense": ("pooler",),
        f"{HEAD}.norm": ("pooler_norm",),
        CLASSIFIER: ("classifier",),
    }
    for i in range(len(spec.layers)):
        place = f"model.layers.{i}"
        names |= {f"{place}.{theirs}": (f"layers.{i}.{ours}",) for ours, theirs in _LAYER.items()}
        names |= {f"{place}.{theirs}": tuple(f"layers.{i}.{x}" for x in ours) for theirs, ours in _JOINED.items()}
    return names


def to_transformers(spec: ModernBertSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a folded model's weights under transformers' names."""
    import torch

    found = {}
    for theirs, ours in names_from_transformers(spec).items():
        for part in ("weight", "bias"):
            parts = [state[f"{name}.{part}"] for name in ours if f"{name}.{part}" in state]
            if parts:
                found[f"{theirs}.{part}"] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return found


def from_transformers(spec: ModernBertSpec, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict from weights under transformers' names, of those that are there."""
    found: dict[str, Tensor] = {}
    for name, ours in names_from_transformers(spec).items():
        for part in ("weight", "bias"):
            if f"{name}.{part}" in theirs:
                tensor = theirs[f"{name}.{part}"]
                sizes = _sizes(spec, ours) if len(ours) > 1 else [len(tensor)]
                parts = tensor.split(sizes) if sum(sizes) == len(tensor) else [tensor] * len(ours)
                found |= {f"{x}.{part}": value.clone() for x, value in zip(ours, parts, strict=True)}
    return found


def _sizes(spec: ModernBertSpec, ours: Sequence[str]) -> list[int]:
    layer = spec.layers[int(ours[0].split(".")[1])]
    if len(ours) == 2:
        return [layer.ffn] * 2
    return [layer.heads * layer.head] * 2 + [layer.heads * layer.value]
