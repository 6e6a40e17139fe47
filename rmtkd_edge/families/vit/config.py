"""config.json and weights as transformers and transformers.js look for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from rmtkd_edge.families.defaults import NOTE
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.store import assemble
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.families.vit.spec import VitSpec

CLASSES = {"vit": "ViTForImageClassification", "deit": "DeiTForImageClassification"}


def standardise(folded: VisionTransformer) -> VisionTransformer:
    """Return the same function with the attention scale 1 / sqrt(query width), the rest of it moved into the query.

    A query/key width that was cut keeps the scale of the uncut one. Other loaders derive the scale from the width; with
    it moved they cannot be silently wrong.
    """
    layers = tuple(replace(layer, scale=layer.qk**-0.5) for layer in folded.spec.layers)
    state = {name: tensor.detach() for name, tensor in folded.state_dict().items()}
    for i, (old, new) in enumerate(zip(folded.spec.layers, layers, strict=True)):
        for part in ("weight", "bias"):
            if old.scale != new.scale:
                state[f"layers.{i}.query.{part}"] = state[f"layers.{i}.query.{part}"] * (old.scale / new.scale)
    return cast("VisionTransformer", assemble(replace(folded.spec, layers=layers), state, "the model in memory"))


def fits_transformers(spec: VitSpec) -> bool:
    """Return whether transformers' own class can hold these widths (one width everywhere, one FFN width)."""
    first = spec.layers[0]
    even = all(layer == first for layer in spec.layers) and first.scale == first.qk**-0.5
    tokens = {"vit": 1, "deit": 2}[spec.model_type]
    return (
        even
        and spec.pool == "class"
        and spec.tokens == tokens
        and first.heads * first.qk == first.heads * first.value == spec.width
    )


def to_config(spec: VitSpec) -> dict[str, Any]:
    """Return config.json with the standard keys of the model type, and whether transformers can rebuild the model."""
    fits = fits_transformers(spec)
    return {
        "model_type": spec.model_type,
        "architectures": [CLASSES[spec.model_type]],
        "hidden_size": spec.width,
        "num_hidden_layers": len(spec.layers),
        "num_attention_heads": max(layer.heads for layer in spec.layers),
        "intermediate_size": max(layer.ffn for layer in spec.layers),
        "hidden_act": spec.activation,
        "hidden_dropout_prob": spec.dropout,
        "layer_norm_eps": spec.eps,
        "image_size": spec.image_size,
        "patch_size": spec.patch,
        "num_channels": CHANNELS,
        "qkv_bias": True,
        "id2label": {str(i): name for i, name in enumerate(spec.labels)},
        "label2id": {name: i for i, name in enumerate(spec.labels)},
        "rmtkd": {"transformers": fits, "note": None if fits else NOTE},
    }
