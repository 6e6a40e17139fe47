"""Small ModernBERTs, transformers' own and ours, with random weights under which every part matters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmtkd_edge.families.modernbert.module import ModernBert
from rmtkd_edge.families.modernbert.sources import CLASSIFIERS

VOCAB, PAD, POSITIONS, WINDOW = 60, 1, 48, 4
LABELS = ("bad", "good", "odd")


def tiny_classifier(attention: str = "eager", **changes: Any) -> Any:
    """Return transformers' own classifier: 60 words, 48 positions, a window of 4 to either side, three labels."""
    import transformers

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "local_attention": 2 * WINDOW,
        "pad_token_id": PAD,
        "num_labels": 3,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    }
    config = transformers.AutoConfig.for_model("modernbert", **{**shape, **changes})
    config._attn_implementation = attention
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for p in model.parameters():  # make norms and biases matter
        p.data.add_(0.1 * torch.randn_like(p))
    return model.eval()


def make_model(**changes: Any) -> ModernBert:
    """Return our model of the same weights."""
    return CLASSIFIERS.from_transformers(tiny_classifier(**changes), LABELS).eval()


def padded_ids(batch: int, length: int, side: str = "right", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids and mask (batch, length); every row has more padding than the one before, at most half."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        count = row * length // (2 * batch)
        gone = slice(0, count) if side == "left" else slice(length - count, length)
        ids[row, gone], mask[row, gone] = PAD, 0
    return ids, mask


def make_batches(count: int = 6, batch: int = 16, length: int = 20) -> list[dict[str, Tensor]]:
    """Return batches with row numbers and labels."""
    made = []
    for number in range(count):
        ids, mask = padded_ids(batch, length, seed=number)
        rows = {"index": torch.arange(batch) + batch * number, "labels": torch.arange(batch) % len(LABELS)}
        made.append({"input_ids": ids, "attention_mask": mask, **rows})
    return made
