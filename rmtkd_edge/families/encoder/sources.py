"""From transformers' BERT-like classifiers (BERT and MiniLM, RoBERTa, DistilBERT, ELECTRA) to an `Encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.settings import EncoderShape
from rmtkd_edge.families.encoder.spec import MODEL_TYPES, EncoderSpec, LayerSpec
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.packaged import resolve_source

SCRATCH = "scratch"
INITIAL_STD = 0.02  # of BERT's weights

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
_POOLERS = {  # (dense, classifier, activation between them)
    "bert": ("bert.pooler.dense", "classifier", "tanh"),
    "roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "electra": ("classifier.dense", "classifier.out_proj", "gelu"),
    "distilbert": ("pre_classifier", "classifier", "relu"),
}


def spec_from_config(config: Any, labels: Sequence[str]) -> EncoderSpec:
    """Return the shape that a transformers config describes; raise UserError for a model that is not BERT-like."""
    kind = config.model_type
    if kind not in MODEL_TYPES:
        raise UserError(
            f"model type `{kind}` is not supported by the family `encoder`", f"supported: {', '.join(MODEL_TYPES)}"
        )
    positions = getattr(config, "position_embedding_type", "absolute") or "absolute"
    if positions != "absolute" or getattr(config, "is_decoder", False):
        raise UserError(
            f"`{kind}` with {positions} positions or as a decoder is not supported",
            "use an encoder with absolute positions",
        )
    distil = kind == "distilbert"
    width = config.dim if distil else config.hidden_size
    heads = config.n_heads if distil else config.num_attention_heads
    if heads < 1 or width % heads:
        raise UserError(f"a width of {width} cannot be shared by {heads} heads", "check the model's config.json")
    head = width // heads
    layer = LayerSpec(heads, head, head, config.hidden_dim if distil else config.intermediate_size, head**-0.5)
    embedding = getattr(config, "embedding_size", width)
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    return EncoderSpec(
        model_type=kind,
        vocab=config.vocab_size,
        positions=config.max_position_embeddings,
        type_vocab=0 if distil else config.type_vocab_size,
        width=width,
        layers=(layer,) * (config.n_layers if distil else config.num_hidden_layers),
        pooler_width=width,
        labels=tuple(labels),
        embedding_size=embedding if embedding != width else None,
        activation=config.activation if distil else config.hidden_act,
        pooler_activation=_POOLERS[kind][2],
        eps=getattr(config, "layer_norm_eps", 1e-12),
        pad_id=pad,
        position_offset=pad + 1 if kind == "roberta" else 0,
        dropout=config.dropout if distil else config.hidden_dropout_prob,
    )


def names_from_transformers(spec: EncoderSpec) -> dict[str, str]:
    """Return transformers' module name for each of ours."""
    kind = spec.model_type
    distil = kind == "distilbert"
    root = f"{kind}.embeddings"
    names = {
        "embeddings.word": f"{root}.word_embeddings",
        "embeddings.position": f"{root}.position_embeddings",
        "embeddings.norm": f"{root}.LayerNorm",
    }
    if spec.type_vocab:
        names["embeddings.token_type"] = f"{root}.token_type_embeddings"
    if spec.embedding_rank is not None:
        names["embeddings.expand"] = f"{root}.word_projection"  # no class of theirs has it
    if spec.embedding_size is not None:
        names["embeddings.project"] = f"{kind}.embeddings_project"
    layers = f"{kind}.transformer.layer" if distil else f"{kind}.encoder.layer"
    for i in range(len(spec.layers)):
        for ours, theirs in (_DISTIL_LAYER if distil else _BERT_LAYER).items():
            names[f"layers.{i}.{ours}"] = f"{layers}.{i}.{theirs}"
    names["pooler"], names["classifier"], _ = _POOLERS[kind]
    return names


def from_transformers(model: Any, labels: Sequence[str] | None = None) -> Encoder:
    """Return an `Encoder` that computes the same logits as a transformers sequence classifier (weights are copied).

    Raises UserError for an unsupported model type or where a weight is missing.
    """
    config = model.config
    spec = spec_from_config(config, labels or [config.id2label[i] for i in range(config.num_labels)])
    theirs: dict[str, Tensor] = model.state_dict()
    encoder = Encoder(spec)
    state, missing = {}, []
    for ours, name in names_from_transformers(spec).items():
        for part in ("weight", "bias"):
            if f"{name}.{part}" in theirs:
                state[f"{ours}.{part}"] = theirs[f"{name}.{part}"].detach().clone().float()
    for name in encoder.state_dict():
        if name not in state:
            missing.append(name)
    if missing:
        raise UserError(
            f"the checkpoint has no weights for {', '.join(missing[:5])}",
            "is it a sequence classifier of a supported type?",
        )
    encoder.load_state_dict(state)
    return encoder


def load(recipe: Recipe, labels: Sequence[str], tokenizer: Any) -> tuple[Encoder, bool]:
    """Return the teacher that a recipe names and whether its classifier is trained already.

    `model.source` is `scratch` (shape from `model.shape`, vocabulary from the tokenizer), a hub id, a folder, or
    `package:NAME`. Random weights are drawn by transformers' own initialisation under the recipe's seed.

    Raises:
        UserError: the source cannot be loaded, or has another number of labels.
        DataError: the model has too few positions or embeddings for the data.
    """
    torch.manual_seed(recipe.seed)
    source = recipe.model.source
    if source == SCRATCH:
        encoder, ready = _scratch(EncoderShape.model_validate(recipe.model.shape), labels, tokenizer), False
    else:
        encoder, ready = _pretrained(resolve_source(source), labels)
    positions = encoder.spec.max_length
    if recipe.task.max_length > positions:
        raise DataError(
            f"task.max_length is {recipe.task.max_length}, the model has {positions} positions",
            f"--set task.max_length={positions}",
        )
    if len(tokenizer) > encoder.spec.vocab:
        raise DataError(
            f"the tokenizer has {len(tokenizer)} tokens, the model only {encoder.spec.vocab} embeddings",
            "set model.tokenizer to the one that belongs to model.source",
        )
    return encoder, ready


def initialise(encoder: Encoder, seed: int) -> Encoder:
    """Set random weights in place (BERT's initialisation) and return the encoder."""
    torch.manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, ProjectedLinear | nn.Embedding):
            nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, ProjectedLinear):
                nn.init.zeros_(module.bias)
    return encoder


def describe_source(recipe: Recipe) -> str:
    """Return the name of the model that a recipe starts from: `bert-4x256` from random weights, else the source's."""
    if recipe.model.source == SCRATCH:
        shape = EncoderShape.model_validate(recipe.model.shape)
        return f"{shape.model_type}-{shape.layers}x{shape.width}"
    return recipe.model.source.removeprefix("package:").rstrip("/").rsplit("/", 1)[-1]


def _label_names(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def _scratch(shape: EncoderShape, labels: Sequence[str], tokenizer: Any) -> Encoder:
    from transformers import AutoModelForSequenceClassification

    config = _scratch_config(shape, tokenizer, _label_names(labels))
    return from_transformers(AutoModelForSequenceClassification.from_config(config), labels)


def _pretrained(source: str, labels: Sequence[str]) -> tuple[Encoder, bool]:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = _loaded(AutoConfig, source)
    spec_from_config(config, labels)  # refuse an unsupported type before its weights are read
    trained = any("ForSequenceClassification" in name for name in config.architectures or [])
    if trained and config.num_labels != len(labels):
        raise UserError(
            f"`{source}` classifies {config.num_labels} labels, the data have {len(labels)}",
            "check task.labels and task.label",
        )
    options = {"num_labels": len(labels), "use_safetensors": True, "output_loading_info": True}
    model, info = _loaded(AutoModelForSequenceClassification, source, **options, **_label_names(labels))
    missing = sorted(info["missing_keys"])
    classifiers = tuple(f"{part}." for part in _POOLERS[config.model_type][:2])
    odd = [key for key in missing if not key.startswith(classifiers)]
    if odd or info.get("mismatched_keys"):
        named = ", ".join((odd or sorted(map(str, info["mismatched_keys"])))[:5])
        raise UserError(f"`{source}` lacks weights, or has them in other shapes: {named}", "use a complete checkpoint")
    if trained:
        _reorder_labels(model, config, labels, source)
    return from_transformers(model, labels), trained and not missing


def _reorder_labels(model: Any, config: Any, labels: Sequence[str], source: str) -> None:
    """Bring the classifier's rows into the order of the data's labels, where the checkpoint names the same ones.

    A checkpoint that names none (LABEL_0, ...) is taken to have the data's order; one that names others is refused.
    """
    theirs = [str(config.id2label[i]).casefold() for i in range(config.num_labels)]
    wanted = [label.casefold() for label in labels]
    if theirs == wanted or all(name.startswith("label_") for name in theirs):
        return
    if sorted(theirs) != sorted(wanted):
        raise UserError(
            f"`{source}` names the labels {theirs}, the data {wanted}",
            "set task.labels to the same names, or remove id2label from the checkpoint's config.json",
        )
    place = torch.tensor([theirs.index(name) for name in wanted])
    classifier = model.get_submodule(_POOLERS[config.model_type][1])
    with torch.no_grad():
        classifier.weight.copy_(classifier.weight[place].clone())
        classifier.bias.copy_(classifier.bias[place].clone())


def _loaded(kind: Any, source: str, **options: Any) -> Any:
    """Return what `kind.from_pretrained` loads; its many kinds of errors become one that says what to do."""
    try:
        return kind.from_pretrained(source, **options)
    except Exception as err:  # transformers raises its own, its validators', the hub's and assertion errors alike
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise UserError(
            f"cannot load a model from `{source}`: {reason}",
            "give a local folder with config.json and model.safetensors as model.source",
        ) from err


def _scratch_config(shape: EncoderShape, tokenizer: Any, names: dict[str, Any]) -> Any:
    import transformers

    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **names}
    if shape.model_type == "distilbert":
        return transformers.DistilBertConfig(
            dim=shape.width,
            n_layers=shape.layers,
            n_heads=shape.heads,
            hidden_dim=shape.ffn,
            max_position_embeddings=shape.max_positions,
            dropout=shape.dropout,
            attention_dropout=shape.dropout,
            **common,
        )
    kinds = {"bert": "BertConfig", "roberta": "RobertaConfig", "electra": "ElectraConfig"}
    extra = {"embedding_size": shape.width} if shape.model_type == "electra" else {}
    offset = tokenizer.pad_token_id + 1 if shape.model_type == "roberta" else 0
    return getattr(transformers, kinds[shape.model_type])(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.max_positions + offset,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        **extra,
        **common,
    )
