"""config.json and weights as transformers, Optimum and transformers.js look for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from rmtkd_edge.families.classifier_checkpoints import ENDINGS
from rmtkd_edge.families.defaults import NOTE
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.names import names_from_transformers
from rmtkd_edge.families.encoder.spec import DEBERTA, RELATIVE_BUCKETS, EncoderSpec
from rmtkd_edge.families.store import assemble

CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "mpnet": "MPNet",
    "albert": "Albert",
    "deberta-v2": "DebertaV2",
}


def standardise(folded: Encoder) -> Encoder:
    """Return the same function with the attention scale that the query width gives, the rest moved into the queries.

    A query/key width that was cut keeps the scale of the uncut one. Other loaders derive the scale from the width; with
    it moved they cannot be silently wrong.
    """
    layers = tuple(replace(layer, scale=scale_of(layer.qk, folded.spec)) for layer in folded.spec.layers)
    state = {name: tensor.detach() for name, tensor in folded.state_dict().items()}
    for i, (old, new) in enumerate(zip(folded.spec.layers, layers, strict=True)):
        for name in (f"layers.{i}.{x}.{part}" for x in ("query", "distance_query") for part in ("weight", "bias")):
            if name in state and old.scale != new.scale:
                state[name] = state[name] * (old.scale / new.scale)
    return cast("Encoder", assemble(replace(folded.spec, layers=layers), state, "the encoder in memory"))


def scale_of(qk: int, spec: EncoderSpec) -> float:
    """Return the scale of the scores that transformers derives from a head's query width."""
    return (qk * spec.terms) ** -0.5


def fits_transformers(spec: EncoderSpec) -> bool:
    """Return whether transformers' own class can hold these widths (one width everywhere, one FFN width)."""
    first = spec.layers[0]
    even = all(layer == first for layer in spec.layers) and first.scale == scale_of(first.qk, spec)
    # ELECTRA maps its embeddings to the width only where the two differ: a map between equal ones would be dropped
    factorised = spec.model_type != "electra" or spec.embedding_size != spec.width
    pooler = spec.pooler_width if spec.head == "row" else spec.width
    whole = even and factorised and spec.embedding_width is None and spec.embedding_rank is None
    return whole and first.heads * first.qk == first.heads * first.value == spec.width == pooler


def to_config(spec: EncoderSpec) -> dict[str, Any]:
    """Return config.json with the standard keys of the model type, and whether transformers can rebuild the model."""
    from transformers import AutoConfig

    common: dict[str, Any] = {
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.positions,
        "pad_token_id": spec.pad_id,
    }
    if spec.labels:
        common["id2label"] = dict(enumerate(spec.labels))
        common["label2id"] = {name: i for i, name in enumerate(spec.labels)}
    config = AutoConfig.for_model(spec.model_type, **common, **_shape(spec)).to_dict()
    config["architectures"] = [CLASSES[spec.model_type] + ENDINGS[spec.head]]
    config["id2label"] = {str(i): name for i, name in enumerate(spec.labels)}
    if not spec.labels:  # transformers would number two
        del config["id2label"], config["label2id"]
    fits = fits_transformers(spec)
    config["rmtkd"] = {"transformers": fits, "note": None if fits else NOTE}
    return config


def _shape(spec: EncoderSpec) -> dict[str, Any]:
    heads, ffn = max(layer.heads for layer in spec.layers), max(layer.ffn for layer in spec.layers)
    if spec.model_type == "distilbert":
        return {
            "dim": spec.width,
            "n_layers": len(spec.layers),
            "n_heads": heads,
            "hidden_dim": ffn,
            "activation": spec.activation,
            "dropout": spec.dropout,
            "seq_classif_dropout": spec.dropout,
        }
    shape: dict[str, Any] = {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "type_vocab_size": spec.type_vocab,
        "hidden_act": spec.activation,
        "layer_norm_eps": spec.eps,
        "hidden_dropout_prob": spec.dropout,
    }
    if spec.model_type == DEBERTA:
        return shape | _distances(spec)
    if spec.relative_positions:
        del shape["type_vocab_size"]
        return shape | {"relative_attention_num_buckets": RELATIVE_BUCKETS}
    return shape | (
        {"embedding_size": spec.embedding_size or spec.width} if spec.model_type in ("electra", "albert") else {}
    )


def _distances(spec: EncoderSpec) -> dict[str, Any]:
    """Return what DeBERTa's config says of positions; the table of distances is normalised already."""
    pooler = {"pooler_hidden_act": spec.pooler_activation, "pooler_hidden_size": spec.pooler_width}
    found = {**pooler, "position_biased_input": spec.position_table, "norm_rel_ebd": "none"}
    shape = spec.disentangled
    if shape is None:
        return found | {"relative_attention": False}
    return found | {
        "relative_attention": True,
        "position_buckets": shape.buckets or -1,
        "max_relative_positions": shape.farthest,
        "share_att_key": shape.shared,
        "pos_att_type": ["p2c"] * shape.p2c + ["c2p"] * shape.c2p,
    }


def to_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Return the weights under transformers' names: a loader that expects other widths fails instead of guessing."""
    names = names_from_transformers(encoder.spec)
    return {_rename(name, names): tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}


def from_tensors(spec: EncoderSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict from weights under transformers' names."""
    back = {theirs: ours for ours, theirs in names_from_transformers(spec).items()}
    return {_rename(name, back): tensor for name, tensor in tensors.items()}


def _rename(name: str, names: Mapping[str, str]) -> str:
    module, _, part = name.rpartition(".")
    return f"{names.get(module, module)}.{part}"
