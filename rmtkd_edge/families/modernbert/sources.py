"""The model that a recipe starts from: a checkpoint, or random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.classifier_checkpoints import Classifiers, check_fits, label_names, token_count
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.modernbert import names
from rmtkd_edge.families.modernbert.module import Linear, ModernBert
from rmtkd_edge.families.modernbert.settings import ModernBertShape
from rmtkd_edge.families.modernbert.spec import MODEL_TYPE
from rmtkd_edge.families.sources import head_of, problem_of
from rmtkd_edge.packaged import resolve_source

SCRATCH = "scratch"
INITIAL_STD = 0.02
BEYOND_WINDOW = 16  # tokens that a model is compared with its source on, beyond both sides of the window

CLASSIFIERS: Classifiers[ModernBert] = Classifiers(
    family=MODEL_TYPE,
    kind="a plain ModernBERT",
    causes="a class with a forward of its own, other activations, norms or positions than its config.json says are not "
    "supported",
    spec_of=lambda config, labels, head: names.spec_from_config(config, labels),
    state_of=names.from_transformers,
    parts=lambda config: (names.HEAD, names.CLASSIFIER),
    trial_tokens=lambda spec: 2 * spec.window + BEYOND_WINDOW,
)


def load(recipe: Recipe, labels: Sequence[str], tokenizer: Any) -> tuple[ModernBert, bool]:
    """Return the teacher that a recipe names and whether its classifier is trained already.

    `model.source` is `scratch` (shape from `model.shape`, vocabulary from the tokenizer), a hub id, a folder, or
    `package:NAME`. Random weights are drawn by transformers' own initialisation under the recipe's seed.

    Raises:
        UserError: the source cannot be loaded, or has another number of labels.
        DataError: the model has too few positions or embeddings for the data.
    """
    torch.manual_seed(recipe.seed)
    if recipe.model.source == SCRATCH:
        model, ready = _scratch(ModernBertShape.model_validate(recipe.model.shape), labels, tokenizer), False
    else:
        model, ready = CLASSIFIERS.pretrained(
            resolve_source(recipe.model.source), labels, problem_of(recipe), head_of(recipe)
        )
    check_fits(recipe, model.spec, tokenizer)
    return model, ready


def _scratch(shape: ModernBertShape, labels: Sequence[str], tokenizer: Any) -> ModernBert:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    rates = ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")
    config = AutoConfig.for_model(
        MODEL_TYPE,
        vocab_size=token_count(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.max_positions,
        local_attention=shape.local_attention,
        global_attn_every_n_layers=shape.global_every,
        classifier_pooling=shape.pooling,
        pad_token_id=tokenizer.pad_token_id,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
        **dict.fromkeys(rates, shape.dropout),
        **label_names(labels),
    )
    return CLASSIFIERS.from_transformers(AutoModelForSequenceClassification.from_config(config), labels)


def initialise(model: ModernBert, seed: int) -> ModernBert:
    """Set random weights in place and return the model; what adds to the stream starts smaller the deeper it is."""
    torch.manual_seed(seed)
    small = {id(module) for layer in model.layers for module in (layer.out, layer.down)}
    for module in model.modules():
        if isinstance(module, Linear | ProjectedLinear | nn.Embedding):
            share = (2 * len(model.layers)) ** -0.5 if id(module) in small else 1.0
            nn.init.normal_(module.weight, std=share * INITIAL_STD)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    return model


def describe_source(recipe: Recipe) -> str:
    """Return the name of the model that a recipe starts from: `modernbert-6x256` from random weights."""
    if recipe.model.source == SCRATCH:
        shape = ModernBertShape.model_validate(recipe.model.shape)
        return f"{MODEL_TYPE}-{shape.layers}x{shape.width}"
    return recipe.model.source.removeprefix("package:").rstrip("/").rsplit("/", 1)[-1]
