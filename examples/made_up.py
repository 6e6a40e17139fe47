"""Data and models that the examples make themselves with --tiny: nothing is downloaded, all of it runs in seconds."""

from __future__ import annotations

import random
from typing import Any

import torch

GOOD, BAD = ["fine", "lovely", "clever", "warm"], ["dull", "clumsy", "cold", "tired"]
OTHER = ["a", "the", "film", "plot", "actor", "scene", "with", "and", "of", "this", "story", "ending"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Return sentences and their labels: 1 where two of three judging words are kind."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = i % 2
        words = rng.choices(GOOD if label else BAD, k=2) + rng.choices(BAD if label else GOOD, k=1)
        words += rng.choices(OTHER, k=rng.randint(3, 9))
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def tokenizer() -> Any:
    """Return a transformers tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *GOOD, *BAD, *OTHER])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **names)


def classifier(words: Any) -> Any:
    """Return a small BERT with random weights for a tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        pad_token_id=words.pad_token_id,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    return BertForSequenceClassification(config)


def images(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images (n, 3, 32, 32) with a bright bar, and its direction: 0 across, 1 upright."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.arange(count) % 2
    for row, place in enumerate(torch.randint(4, 26, (count,), generator=generator).tolist()):
        bar = (slice(None), slice(place, place + 3)) if labels[row] else (slice(place, place + 3), slice(None))
        pixels[(row, slice(None), *bar)] += 2
    return pixels, labels
