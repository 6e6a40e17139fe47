"""The model that a recipe starts from: a checkpoint, or random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Head
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.families.classifier_checkpoints import LOADERS, check_fits, label_names, token_count
from rmtkd_edge.families.encoder.checkpoints import from_transformers, pretrained
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.names import MPNET_PAD, POSITIONS_FROM_PAD
from rmtkd_edge.families.encoder.settings import EncoderShape
from rmtkd_edge.families.encoder.spec import DEBERTA
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.sources import head_of, problem_of
from rmtkd_edge.packaged import resolve_source

SCRATCH = "scratch"
INITIAL_STD = 0.02  # of BERT's weights
DEBERTA_BUCKETS = 256  # of DeBERTa-v3
ALBERT_EMBEDDING = 128  # width of the embeddings of every published ALBERT


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
        shape = EncoderShape.model_validate(recipe.model.shape)
        encoder, ready = _scratch(shape, labels, tokenizer, head_of(recipe)), False
    else:
        encoder, ready = pretrained(resolve_source(source), labels, problem_of(recipe), head_of(recipe))
    check_fits(recipe, encoder.spec, tokenizer)
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


def _scratch(shape: EncoderShape, labels: Sequence[str], tokenizer: Any, head: Head) -> Encoder:
    import transformers

    if head == "embedding":
        raise UserError("an embedder with random weights has nothing to teach", "model.source = a trained one")
    config = _scratch_config(shape, tokenizer, label_names(labels))
    return from_transformers(getattr(transformers, LOADERS[head]).from_config(config), labels)


def _scratch_config(shape: EncoderShape, tokenizer: Any, names: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    kind, common = shape.model_type, {"pad_token_id": tokenizer.pad_token_id, **names}
    if kind == "mpnet" and tokenizer.pad_token_id != MPNET_PAD:
        raise DataError(
            f"mpnet counts positions from the padding token {MPNET_PAD}, the tokenizer's is {tokenizer.pad_token_id}",
            "set model.tokenizer to one for MPNet, or model.shape.model_type to bert",
        )
    common["vocab_size"] = token_count(tokenizer)
    if kind == "distilbert":
        return AutoConfig.for_model(
            kind,
            dim=shape.width,
            n_layers=shape.layers,
            n_heads=shape.heads,
            hidden_dim=shape.ffn,
            max_position_embeddings=shape.max_positions,
            dropout=shape.dropout,
            attention_dropout=shape.dropout,
            **common,
        )
    if kind == DEBERTA:  # as v3 is
        common |= {
            "relative_attention": True,
            "position_buckets": min(DEBERTA_BUCKETS, max(shape.max_positions // 2, 2)),
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        }
    embedding = {"electra": shape.width, "albert": min(ALBERT_EMBEDDING, shape.width)}.get(kind)
    extra = {} if embedding is None else {"embedding_size": embedding}
    return AutoConfig.for_model(
        kind,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.max_positions + (tokenizer.pad_token_id + 1 if kind in POSITIONS_FROM_PAD else 0),
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        **extra,
        **common,
    )
