"""What transformers calls a BERT-like classifier and its parts: from its config to a shape, and names of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rmtkd_edge.config.settings import Head
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.activations import plain_name
from rmtkd_edge.families.encoder.spec import (
    DEBERTA,
    MODEL_TYPES,
    RELATIVE_BUCKETS,
    ROBERTA,
    Disentangled,
    EncoderSpec,
    LayerSpec,
)

_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
_DISTIL_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm2": "output_layer_norm",
}
_MPNET_LAYER = _BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "out": "attention.attn.o",
    "norm1": "attention.LayerNorm",
}
_ALBERT_LAYER = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "out": "attention.dense",
    "norm1": "attention.LayerNorm",
    "up": "ffn",
    "down": "ffn_output",
    "norm2": "full_layer_layer_norm",
}
_DEBERTA_LAYER = _BERT_LAYER | {
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
    "distance_key": "attention.self.pos_key_proj",
    "distance_query": "attention.self.pos_query_proj",
}
_LAYERS = {  # the others have BERT's names
    "distilbert": _DISTIL_LAYER,
    "mpnet": _MPNET_LAYER,
    "albert": _ALBERT_LAYER,
    "deberta": _DEBERTA_LAYER,
}
_STACKS = {
    "distilbert": "transformer.layer",
    "albert": "encoder.albert_layer_groups.0.albert_layers",
}
_PROJECTS = {"albert": "encoder.embedding_hidden_mapping_in"}
_POOLERS = {  # (dense, classifier, activation between them)
    "bert": ("bert.pooler.dense", "classifier", "tanh"),
    "roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "electra": ("classifier.dense", "classifier.out_proj", "gelu"),
    "distilbert": ("pre_classifier", "classifier", "relu"),
    "mpnet": ("classifier.dense", "classifier.out_proj", "tanh"),
    "albert": ("albert.pooler", "classifier", "tanh"),
    "deberta": ("pooler.dense", "classifier", "gelu"),
}
POSITIONS_FROM_PAD = (*ROBERTA, "mpnet")  # positions are counted from the padding token's number
MPNET_PAD = 1  # from which transformers counts positions whatever pad_token_id says


def root_of(model_type: str) -> str:
    """Return the name under which a model type keeps its encoder; RoBERTa's copies have RoBERTa's."""
    return {**dict.fromkeys(ROBERTA, "roberta"), DEBERTA: "deberta"}.get(model_type, model_type)


def pooler_of(model_type: str) -> tuple[str, str, str]:
    """Return the names of a model type's pooler and classifier, and the activation between them."""
    return _POOLERS[root_of(model_type)]


def spec_from_config(config: Any, labels: Sequence[str], head: Head = "row") -> EncoderSpec:
    """Return the shape that a transformers config describes; raise UserError for a model that is not BERT-like."""
    kind = config.model_type
    if kind not in MODEL_TYPES:
        raise UserError(
            f"model type `{kind}` is not supported by the family `encoder`", f"supported: {', '.join(MODEL_TYPES)}"
        )
    _refuse_variants(config)
    distil, shared = kind == "distilbert", kind == "albert"
    width = config.dim if distil else config.hidden_size
    heads = config.n_heads if distil else config.num_attention_heads
    if heads < 1 or width % heads:
        raise UserError(f"a width of {width} cannot be shared by {heads} heads", "check the model's config.json")
    size = width // heads
    scale = (size * attention_terms(config)) ** -0.5
    layer = LayerSpec(heads, size, size, config.hidden_dim if distil else config.intermediate_size, scale)
    layers = config.n_layers if distil else config.num_hidden_layers
    embedding = getattr(config, "embedding_size", width)
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    relative = kind == "mpnet"
    if relative:
        pad = MPNET_PAD
    activation = config.activation if distil else config.hidden_act
    return EncoderSpec(
        model_type=kind,
        vocab=config.vocab_size,
        positions=config.max_position_embeddings,
        type_vocab=0 if distil or relative else config.type_vocab_size,
        width=width,
        layers=(layer,) if shared else (layer,) * layers,
        pooler_width=width,
        labels=tuple(labels),
        embedding_size=None if kind == DEBERTA or not (shared or embedding != width) else embedding,
        activation=plain_name(activation),
        pooler_activation=plain_name(_of_deberta(config, "pooler_hidden_act", pooler_of(kind)[2])),
        eps=getattr(config, "layer_norm_eps", 1e-12),
        pad_id=pad,
        position_offset=pad + 1 if kind in POSITIONS_FROM_PAD else 0,
        dropout=config.dropout if distil else config.hidden_dropout_prob,
        relative_positions=relative,
        position_table=_of_deberta(config, "position_biased_input", True),
        disentangled=_disentangled(config),
        embedding_rank=embedding if kind == DEBERTA and embedding < width else None,
        repeats=layers if shared else 1,
        head=head,
    )


def _of_deberta(config: Any, key: str, otherwise: Any) -> Any:
    """Return what a config says under a key that DeBERTa alone reads: others may carry it, and compute as without."""
    return getattr(config, key, otherwise) if config.model_type == DEBERTA else otherwise


def attention_terms(config: Any) -> int:
    """Return how many products transformers' scale of the scores is for."""
    kinds = _of_deberta(config, "pos_att_type", None) or ()
    return 1 + ("c2p" in kinds) + ("p2c" in kinds)


def _disentangled(config: Any) -> Disentangled | None:
    """Return how a config's tokens look at distances, None where they do not."""
    kinds = _of_deberta(config, "pos_att_type", None) or ()
    c2p, p2c = "c2p" in kinds, "p2c" in kinds
    if not _of_deberta(config, "relative_attention", False) or not (c2p or p2c):
        return None
    farthest = getattr(config, "max_relative_positions", -1)
    farthest = farthest if farthest >= 1 else config.max_position_embeddings
    buckets = max(getattr(config, "position_buckets", -1), 0)
    return Disentangled(buckets or farthest, buckets, farthest, getattr(config, "share_att_key", False), c2p, p2c)


def _refuse_variants(config: Any) -> None:
    """Raise UserError for what a BERT-like model can be configured to be and this one cannot."""
    kind = config.model_type
    positions = getattr(config, "position_embedding_type", "absolute") or "absolute"
    if positions != "absolute" or getattr(config, "is_decoder", False):
        raise UserError(
            f"`{kind}` with {positions} positions or as a decoder is not supported",
            "use an encoder with absolute positions",
        )
    if getattr(config, "relative_attention_num_buckets", RELATIVE_BUCKETS) != RELATIVE_BUCKETS:
        raise UserError(
            f"relative_attention_num_buckets of {config.relative_attention_num_buckets} is not supported",
            f"transformers computes {RELATIVE_BUCKETS}, whatever config.json says: check it",
        )
    if _of_deberta(config, "conv_kernel_size", 0) > 0:
        raise UserError(
            f"a convolution in the encoder (conv_kernel_size of {config.conv_kernel_size}) is not supported",
            "use a DeBERTa without it, such as DeBERTa-v3",
        )
    size = config.hidden_size // max(config.num_attention_heads, 1) if kind == DEBERTA else None
    if _of_deberta(config, "attention_head_size", size) != size:
        raise UserError(
            f"attention_head_size of {config.attention_head_size} is not supported",
            "use a DeBERTa whose heads share the hidden width",
        )
    pooled, buckets = getattr(config, "hidden_size", None), _of_deberta(config, "position_buckets", -1)
    if _of_deberta(config, "pooler_hidden_size", pooled) != pooled:
        raise UserError(
            f"pooler_hidden_size of {config.pooler_hidden_size} is not that of the stream, {pooled}",
            "transformers cannot run it either: check the model's config.json",
        )
    if buckets == 1:
        raise UserError(
            "position_buckets of 1 leaves distances no bucket on either side",
            "transformers cannot run it either: check the model's config.json",
        )
    groups = (getattr(config, "num_hidden_groups", 1), getattr(config, "inner_group_num", 1))
    if groups != (1, 1):
        raise UserError(
            f"num_hidden_groups of {groups[0]} and inner_group_num of {groups[1]} are not supported",
            "use an ALBERT whose layers are all one, as published ones are",
        )
    pruned = {layer: heads for layer, heads in (getattr(config, "pruned_heads", None) or {}).items() if heads}
    if pruned:
        raise UserError(
            f"heads were pruned from layers {', '.join(map(str, pruned))} of the checkpoint",
            "use the checkpoint before its heads were pruned: compress finds its own widths",
        )


def names_from_transformers(spec: EncoderSpec) -> dict[str, str]:
    """Return transformers' module name for each of ours."""
    root = root_of(spec.model_type)
    table = f"{root}.embeddings"
    names = {
        "embeddings.word": f"{table}.word_embeddings",
        "embeddings.position": f"{table}.position_embeddings",
        "embeddings.norm": f"{table}.LayerNorm",
    }
    if spec.type_vocab:
        names["embeddings.token_type"] = f"{table}.token_type_embeddings"
    if spec.embedding_rank is not None:
        names["embeddings.expand"] = f"{table}.word_projection"  # no class of theirs has it
    if spec.relative_positions:
        names["relative.table"] = f"{root}.encoder.relative_attention_bias"
    if spec.disentangled is not None:
        names["relative.embeddings"] = f"{root}.encoder.rel_embeddings"
    if spec.embedding_size is not None:
        names["embeddings.project"] = f"{root}.{_PROJECTS.get(root, 'embeddings_project')}"
    layers = f"{root}.{_STACKS.get(root, 'encoder.layer')}"
    for i in range(len(spec.layers)):
        for ours, theirs in _LAYERS.get(root, _BERT_LAYER).items():
            names[f"layers.{i}.{ours}"] = f"{layers}.{i}.{theirs}"
    if spec.head == "row":
        names["pooler"], names["classifier"], _ = pooler_of(spec.model_type)
    elif spec.head == "token":
        names["classifier"] = "classifier"
    else:  # an encoder alone has no name in front of its parts
        names = {ours: theirs.removeprefix(f"{root}.") for ours, theirs in names.items()}
        names |= {"classifier": "embedding_projection"} if spec.classifier else {}  # no class of theirs has it
    return names
