"""The model that a recipe starts from: a checkpoint, or random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Head
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.families.encoder.checkpoints import LOADERS, from_transformers, pretrained
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.settings import EncoderShape
from rmtkd_edge.families.encoder.spec import ROBERTA
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.sources import head_of, problem_of
from rmtkd_edge.packaged import resolve_source

SCRATCH = "scratch"
INITIAL_STD = 0.02  # of BERT's weights


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
    positions = encoder.spec.max_length
    if recipe.task.max_length > positions:
        raise DataError(
            f"task.max_length is {recipe.task.max_length}, the model has {positions} positions",
            f"--set task.max_length={positions}",
        )
    if (tokens := _token_count(tokenizer)) > encoder.spec.vocab:
        raise DataError(
            f"the tokenizer has {tokens} tokens, the model only {encoder.spec.vocab} embeddings",
            "set model.tokenizer to the one that belongs to model.source",
        )
    return encoder, ready


def _token_count(tokenizer: Any) -> int:
    """Return the embeddings that a tokenizer's ids need; there may be gaps between them."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))


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


def _scratch(shape: EncoderShape, labels: Sequence[str], tokenizer: Any, head: Head) -> Encoder:
    import transformers

    if head == "embedding":
        raise UserError("an embedder with random weights has nothing to teach", "model.source = a trained one")
    config = _scratch_config(shape, tokenizer, _label_names(labels))
    return from_transformers(getattr(transformers, LOADERS[head]).from_config(config), labels)


def _scratch_config(shape: EncoderShape, tokenizer: Any, names: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    kind, common = shape.model_type, {"pad_token_id": tokenizer.pad_token_id, **names}
    common["vocab_size"] = _token_count(tokenizer)
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
    extra = {"embedding_size": shape.width} if kind == "electra" else {}
    return AutoConfig.for_model(
        kind,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.max_positions + (tokenizer.pad_token_id + 1 if kind in ROBERTA else 0),
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        **extra,
        **common,
    )
