"""config.json and weights as transformers and Optimum look for them."""

from __future__ import annotations

from typing import Any

from rmtkd_edge.families.defaults import NOTE
from rmtkd_edge.families.modernbert.names import GLOBAL, LOCAL
from rmtkd_edge.families.modernbert.spec import MODEL_TYPE, ModernBertSpec


def fits_transformers(spec: ModernBertSpec) -> bool:
    """Return whether transformers' own class can hold these widths (one everywhere, one FFN width, a first norm)."""
    first = spec.layers[0]
    even = all(
        (x.heads, x.head, x.value, x.ffn) == (first.heads, first.head, first.head, first.ffn) for x in spec.layers
    )
    norms = [layer.normed for layer in spec.layers] == [i > 0 for i in range(len(spec.layers))]
    return even and norms and first.heads * first.head == spec.width == spec.pooler_width


def to_config(spec: ModernBertSpec) -> dict[str, Any]:
    """Return config.json with the standard keys of the model type, and whether transformers can rebuild the model."""
    from transformers import AutoConfig

    first, rates = spec.layers[0], ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")
    config = AutoConfig.for_model(
        MODEL_TYPE,
        vocab_size=spec.vocab,
        hidden_size=spec.width,
        intermediate_size=max(layer.ffn for layer in spec.layers),
        num_hidden_layers=len(spec.layers),
        num_attention_heads=first.heads,
        hidden_activation=spec.activation,
        classifier_activation=spec.pooler_activation,
        max_position_embeddings=spec.positions,
        norm_eps=spec.eps,
        norm_bias=spec.norm_bias,
        attention_bias=spec.attention_bias,
        mlp_bias=spec.ffn_bias,
        classifier_bias=spec.pooler_bias,
        classifier_pooling=spec.pooling,
        layer_types=[LOCAL if layer.local else GLOBAL for layer in spec.layers],
        local_attention=2 * spec.window,
        rope_parameters={
            GLOBAL: {"rope_type": "default", "rope_theta": spec.global_theta},
            LOCAL: {"rope_type": "default", "rope_theta": spec.local_theta},
        },
        pad_token_id=spec.pad_id,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
        **dict.fromkeys(rates, spec.dropout),
        id2label=dict(enumerate(spec.labels)),
        label2id={name: i for i, name in enumerate(spec.labels)},
    ).to_dict()
    config |= _names_of_4(spec)
    config["architectures"] = ["ModernBertForSequenceClassification"]
    config["id2label"] = {str(i): name for i, name in enumerate(spec.labels)}
    fits = fits_transformers(spec)
    config["rmtkd"] = {"transformers": fits, "note": None if fits else NOTE}
    return config


def _names_of_4(spec: ModernBertSpec) -> dict[str, Any]:
    """Return what transformers 4 calls the rotary bases and, where it is regular, the pattern of global layers."""
    found: dict[str, Any] = {"global_rope_theta": spec.global_theta, "local_rope_theta": spec.local_theta}
    local = [layer.local for layer in spec.layers]
    for every in range(1, len(local) + 1):
        if local == [i % every > 0 for i in range(len(local))]:
            return {**found, "global_attn_every_n_layers": every}
    return found
